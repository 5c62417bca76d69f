"""What comes with a request: an image, on disk under a name of ours until it is decoded, or JSON."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from fullyconv.errors import DataError, FullyConvError, UsageError
from fullyconv.image_form import ImageForm
from fullyconv.images import show_path
from fullyconv.serve.context import Context
from fullyconv.serve.form import Form
from fullyconv.shapes import Pixels
from fullyconv.sources import read_header

__all__ = [
    "GoneError",
    "Received",
    "TooLargeError",
    "UnsupportedError",
    "body_of",
    "decoded",
    "decoded_bytes",
    "image_body",
    "json_of",
    "received",
    "unless_gone",
]

_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=BaseModel)

PARSED = 2**16
"""Bytes of a form that are read before others take their turn."""

MOST_JSON = 16 * 2**20
"""Bytes of a document in JSON; images may come as bytes."""

MOST_SIGNS = {b",": 800_000, b"[": 100_000, b"{": 20_000, b":": 20_000}
"""Of a document: it is understood in one go, which keeps all others waiting, and may take 64 times its bytes."""


class TooLargeError(FullyConvError):
    """More pixels, or more of anything, than are taken."""


class UnsupportedError(FullyConvError):
    """A body of a kind that is not read."""


class GoneError(Exception):
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
async def received(request: Request, context: Context) -> AsyncIterator[Received]:
    """Take the one image of a request: of a form's field `image` or `file`, or the body itself (`image/...`).

    Args:
        request: Whose body was not read yet.
        context: Its folder gets the file, which is gone when the block ends.

    Raises:
        UnsupportedError: The body is neither.
        BusyError: There is no room for it.
        DataError: The form has no image, several, or is damaged.
        GoneError: The sender hung up.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not (is_form or kind.startswith("image/") or kind == "application/octet-stream"):
        raise UnsupportedError(
            f"expected multipart/form-data or an image as body, got {kind[:80] or 'no content type'}",
            hint="such as curl -F image=@photo.jpg",
        )
    path = context.folder / secrets.token_hex(16)
    try:
        with context.work.hold() as more:
            parts = _parts(request, more)
            with path.open("xb") as file:
                if is_form:
                    form = Form(request.headers["content-type"], file, context.limits)
                    await _fill(form, parts)
                    taken = Received(path, form.file_name or "image", form.fields)
                else:
                    async for part in parts:
                        file.write(part)
                    taken = Received(path, "image", {})
            yield taken
    finally:
        path.unlink(missing_ok=True)


def image_body(**fields: Mapping[str, object]) -> dict[str, object]:
    """What OpenAPI says of a body that `received` takes.

    Args:
        fields: Schemas of further fields of the form.
    """
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["image"], "properties": {"image": image, **fields}}
    content = {"multipart/form-data": {"schema": form}, "image/*": {"schema": image}}
    return {"requestBody": {"required": True, "content": content}}


async def _fill(form: Form, parts: AsyncIterator[bytes]) -> None:
    async for part in parts:
        for start in range(0, len(part), PARSED):
            form.feed(part[start : start + PARSED])
            await asyncio.sleep(0)
    form.finish()


async def _parts(request: Request, more: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The body as it comes, and room for it as it comes: not for what a slow sender only announces."""
    try:
        async for part in request.stream():
            more(len(part))
            yield part
    except ClientDisconnect:
        raise GoneError from None


@asynccontextmanager
async def decoded(path: Path, form: ImageForm, context: Context) -> AsyncIterator[Pixels]:
    """Decode an image, after its header says that it is not too large, and hold its memory within the block.

    Args:
        path: The file; messages call it "the image".
        form: In which it is read.
        context: What is taken.

    Raises:
        TooLargeError: It has more pixels than are taken.
        BusyError: Others hold too much memory.
        DataError: It cannot be read.
    """
    work = context.work
    try:
        height, width = (await work.code(read_header, path, form)).size
        if height * width > context.limits.pixels:
            raise TooLargeError(f"expected at most {context.limits.pixels} pixels, got {height} x {width}")
        with work.hold(height * width * (3 if form.is_usual else 4 * form.channels)):
            yield await work.code(form.read, path)
    except DataError as error:
        raise DataError(nameless(error.message, path), hint=nameless(error.hint or "", path) or None) from None


def nameless(message: str, path: Path) -> str:
    """A message that does not tell where files lie."""
    return (
        message.replace(show_path(path), "the image").replace(str(path), "the image").replace(path.name, "image")
    )


@asynccontextmanager
async def decoded_bytes(file: bytes, form: ImageForm, context: Context) -> AsyncIterator[Pixels]:
    """Decode an image that came within something else, as `decoded` does."""
    path = context.folder / secrets.token_hex(16)
    try:
        await context.work.code(path.write_bytes, file)
        async with decoded(path, form, context) as pixels:
            yield pixels
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def body_of(request: Request, context: Context) -> AsyncIterator[bytearray]:
    """The body of a request, whose memory is held within the block.

    Raises:
        BusyError: Others hold too much memory.
        GoneError: The sender hung up.
    """
    body = bytearray()
    with context.work.hold() as more:
        async for part in _parts(request, more):
            body += part
        yield body


def json_of(body: bytes | bytearray, kind: type[_Model]) -> _Model:
    """Understand a body of JSON.

    Raises:
        TooLargeError: It is too long, or has too much in it.
        UsageError: It is none, or another one.
    """
    if len(body) > MOST_JSON or any(body.count(sign) > most for sign, most in MOST_SIGNS.items()):
        raise TooLargeError(
            f"expected JSON of at most {MOST_JSON} bytes and {MOST_SIGNS[b',']} numbers, got more",
            hint="send images as bytes, one by one",
        )
    try:
        return kind.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))[:200] or 'body'}: {first['msg'][:200]}") from None
    except ValueError as error:
        raise UsageError(f"the JSON of the request cannot be read: {str(error)[:200]}") from None


async def unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """Wait for something as long as somebody waits for the answer.

    Raises:
        GoneError: The sender hung up; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
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
