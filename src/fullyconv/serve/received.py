"""What comes with a request: the image of a form or of a body, on disk under a name of ours, and its decoded pixels."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from fullyconv.errors import DataError, FullyConvError
from fullyconv.image_form import ImageForm
from fullyconv.images import show_path
from fullyconv.serve.limits import Limits
from fullyconv.shapes import Pixels
from fullyconv.sources import read_header

__all__ = ["Gone", "Received", "TooLarge", "Unsupported", "decoded", "received", "unless_gone"]

_Result = TypeVar("_Result")

COPIED = 2**20
"""Bytes that are copied at a time."""


class TooLarge(FullyConvError):
    """More pixels than are taken."""


class Unsupported(FullyConvError):
    """A body of a kind that is not read."""


class Gone(Exception):  # noqa: N818 - it is no error
    """Whoever asked has hung up."""


@dataclass(frozen=True)
class Received:
    """An image file that came with a request.

    Attributes:
        path: Where it lies, under a name that is not the sender's.
        name: What the sender calls it: only to be repeated to the sender.
        fields: The other fields of the form.
    """

    path: Path
    name: str
    fields: Mapping[str, str]


@asynccontextmanager
async def received(request: Request, folder: Path, limits: Limits) -> AsyncIterator[Received]:
    """Take the one image of a request: of a form's field `image` or `file`, or the body itself (`image/...`).

    Args:
        request: Whose body was not read yet.
        folder: For the file, which is gone when the block ends.
        limits: Of the form.

    Raises:
        Unsupported: The body is neither.
        DataError: The form has no image, several, or is damaged.
        Gone: The sender hung up.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    path = folder / secrets.token_hex(16)
    try:
        try:
            if kind == "multipart/form-data":
                taken = await _of_form(request, path, limits)
            elif kind.startswith("image/") or kind == "application/octet-stream":
                await _of_body(request, path)
                taken = Received(path, "image", {})
            else:
                raise Unsupported(
                    f"expected multipart/form-data or an image as body, got {kind[:80] or 'no content type'}",
                    hint="such as curl -F image=@photo.jpg",
                )
        except ClientDisconnect:
            raise Gone from None
        yield taken
    finally:
        path.unlink(missing_ok=True)


async def _of_form(request: Request, path: Path, limits: Limits) -> Received:
    boundary = request.headers["content-type"].partition("boundary=")[2]
    if len(boundary) > limits.boundary:
        raise DataError("expected a form with a boundary of at most 70 characters")
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=limits.fields,
        max_part_size=limits.field_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise DataError(f"the form cannot be read: {str(error)[:200]}") from None
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        if len(files) != 1:
            raise DataError("expected a form with one file, the image, got none")
        await asyncio.to_thread(_copy, files[0], path)
        return Received(path, files[0].filename or "image", fields)
    finally:
        await form.close()


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("xb") as file:
        while part := upload.file.read(COPIED):
            file.write(part)


async def _of_body(request: Request, path: Path) -> None:
    with path.open("xb") as file:
        async for part in request.stream():
            file.write(part)


def decoded(path: Path, form: ImageForm, most_pixels: int) -> Pixels:
    """Read an image, after its header says that it is not too large.

    Args:
        path: The file; messages call it "the image".
        form: In which it is read.
        most_pixels: That it may have.

    Raises:
        TooLarge: It has more.
        DataError: It cannot be read.
    """
    try:
        height, width = read_header(path, form).size
        if height * width > most_pixels:
            raise TooLarge(f"expected at most {most_pixels} pixels, got {height} x {width}")
        return form.read(path)
    except DataError as error:
        raise DataError(nameless(error.message, path), hint=nameless(error.hint or "", path) or None) from None


def nameless(message: str, path: Path) -> str:
    """A message that does not tell where files lie."""
    return message.replace(show_path(path), "the image").replace(str(path), "the image").replace(path.name, "image")


async def unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """Wait for something as long as somebody waits for the answer.

    Raises:
        Gone: The sender hung up; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError):
                    await one


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
