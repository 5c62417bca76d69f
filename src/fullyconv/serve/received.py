"""What comes with a request: an image, on disk under a name of ours until it is decoded, or JSON."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from fullyconv.errors import DataError, FullyConvError, UsageError
from fullyconv.image_form import ImageForm
from fullyconv.images import show_path
from fullyconv.serve.context import Context
from fullyconv.serve.form import Form
from fullyconv.serve.limits import Limits
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
    "json_of",
    "received",
    "unless_gone",
]

_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=BaseModel)

PARSED = 2**16
"""Bytes of a form that are read before others take their turn."""


MOST_VALUES = 4_000_000
"""Of a body of JSON: nothing else is answered while it is parsed, and values take up to thirty times its bytes."""


class TooLargeError(FullyConvError):
    """More than is taken."""


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
async def received(request: Request, folder: Path, limits: Limits) -> AsyncIterator[Received]:
    """Take the one image of a request: of a form's field `image` or `file`, or the body itself (`image/...`).

    Args:
        request: Whose body was not read yet.
        folder: For the file, which is gone when the block ends.
        limits: Of the form.

    Raises:
        UnsupportedError: The body is neither.
        DataError: The form has no image, several, or is damaged.
        GoneError: The sender hung up.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    path = folder / secrets.token_hex(16)
    try:
        if kind == "multipart/form-data":
            taken = await _of_form(request, path, limits)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            with path.open("xb") as file:
                async for part in _parts(request):
                    file.write(part)
            taken = Received(path, "image", {})
        else:
            raise UnsupportedError(
                f"expected multipart/form-data or an image as body, got {kind[:80] or 'no content type'}",
                hint="such as curl -F image=@photo.jpg",
            )
        yield taken
    finally:
        path.unlink(missing_ok=True)


async def _of_form(request: Request, path: Path, limits: Limits) -> Received:
    with path.open("xb") as file:
        form = Form(request.headers["content-type"], file, limits)
        async for part in _parts(request):
            for start in range(0, len(part), PARSED):
                form.feed(part[start : start + PARSED])
                await asyncio.sleep(0)
        form.finish()
    return Received(path, form.file_name or "image", form.fields)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes."""
    try:
        async for part in request.stream():
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
        with path.open("xb") as opened:
            await context.work.code(opened.write, file)
        async with decoded(path, form, context) as pixels:
            yield pixels
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def body_of(request: Request, context: Context) -> AsyncIterator[bytes]:
    """The body of a request, whose memory is held within the block.

    Raises:
        BusyError: Others hold too much memory.
        GoneError: The sender hung up.
    """
    with context.work.hold(int(request.headers.get("content-length", "0"))):
        yield b"".join([part async for part in _parts(request)])


def json_of(body: bytes, kind: type[_Model]) -> _Model:
    """Understand a body of JSON.

    Raises:
        TooLargeError: It has too many values.
        UsageError: It is none, or another one.
    """
    if sum(body.count(sign) for sign in b",[{") > MOST_VALUES:
        raise TooLargeError(f"expected JSON of at most {MOST_VALUES} values, got more", hint="send binary data")
    try:
        return kind.model_validate(json.loads(body, parse_constant=_no_number))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))[:200] or 'body'}: {first['msg'][:200]}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the JSON of the request cannot be read: {str(error)[:200]}") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


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
