"""What the service takes at most, of a request and at a time."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        body_bytes: Of a request.
        pixels: Of an image that is answered at once; `opened_pixels` of one that is opened to be looked at.
        opened_pixels: Of an image on the page.
        stored_bytes: Of all images that are open on the page; the oldest ones are dropped for new ones.
        stored_seconds: After which an open image that nobody asked for is dropped.
        fields: Fields and files of a form.
        field_bytes: Of a field that is no file.
        boundary: Bytes of the boundary of a form, as many as RFC 2046 allows.
        header_seconds: In which the head of a request has to come.
        body_seconds: In which its body has to come, and in which the answer has to be taken.
        held_bytes: Of bodies, images, tensors and answers that are not taken yet, of all requests together.
        waiting: Requests that are answered or wait for it; others are sent away with 503.
        connections: At a time; others are closed.
    """

    body_bytes: int = 256 * 2**20
    pixels: int = 50_000_000
    opened_pixels: int = 500_000_000
    stored_bytes: int = 8 * 10**9
    stored_seconds: float = 3600
    fields: int = 16
    field_bytes: int = 64 * 2**10
    boundary: int = 70
    header_seconds: float = 10
    body_seconds: float = 60
    held_bytes: int = 10**9
    waiting: int = 32
    connections: int = 512
