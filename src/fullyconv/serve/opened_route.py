"""`/images`: what the page opens, looks at and takes away."""

import io
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image as PillowImage
from starlette.types import Receive, Scope, Send

from fullyconv.errors import FullyConvError
from fullyconv.images import write_mask
from fullyconv.pictures import overlay, save_picture, with_legend
from fullyconv.predict_files import LARGE
from fullyconv.serve.context import Context, UnknownError
from fullyconv.serve.opened import Opened, OpenedImage
from fullyconv.serve.pyramid import blocks, reserved
from fullyconv.serve.received import TooLargeError, image_body, received, unless_gone
from fullyconv.serve.work import BusyError
from fullyconv.shapes import Image, Mask
from fullyconv.sources.reduced import Reduced
from fullyconv.vectors import geojson

__all__ = ["router"]

JPEG_QUALITY = 90
"""Of tiles of halves; the pixels of the image itself come as PNG, as they are."""

SENT = 2**18
"""Bytes of a file that are sent at a time."""

DOWNLOADS = {
    "mask": (".png", "image/png"),
    "overlay": ("_overlay.png", "image/png"),
    "geojson": (".geojson", "application/geo+json"),
}
"""What can be downloaded: how its name ends, and its type."""

_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such image, or none any more."}}


def router(context: Context, opened: Opened) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/images", tags=["page"], responses=_UNKNOWN)

    @routes.post("", status_code=201, summary="Open an image", openapi_extra=image_body(model={"type": "string"}))
    async def add(request: Request, model: str | None = None) -> JSONResponse:
        """Keep an image, so that it can be looked at by tiles, and begin to predict it.

        The answer has the `id` by which it is found; nobody else knows it.
        """
        context.work.expect_place()
        async with received(request, context) as upload:
            with context.work.place():
                name, _ = context.model(model or upload.fields.get("model"))
                image = await unless_gone(request, opened.open(upload.path, upload.name[:200], name))
        return JSONResponse(image.state(), 201, {"location": f"/images/{image.id}"})

    @routes.get("/{id}", summary="How far an image is")
    async def state(id: str) -> JSONResponse:
        """Give its size, its classes with the pixels that they have so far, and how much is predicted."""
        return JSONResponse(opened.get(id).state())

    @routes.delete("/{id}", status_code=204, summary="Close an image")
    async def close(id: str) -> Response:
        """Forget an image; it is predicted no further."""
        opened.close(id)
        return Response(status_code=204)

    @routes.get("/{id}/download/{kind}", summary="Take something away", response_class=Response)
    async def download(id: str, kind: str) -> Response:
        """Give the `mask` as `fullyconv predict` writes it, the `overlay`, or the outlines as `geojson`."""
        return await _downloaded(context, opened.get(id), kind)

    @routes.get("/{id}/{layer}/{level}/{place}", summary="A tile", response_class=Response)
    async def tile(id: str, layer: str, level: int, place: str) -> Response:
        """Give a tile of 512 x 512 pixels of the `image`, the `mask` or the `confidence`.

        Masks are grey PNG of class indices, 255 where nothing is predicted yet; confidence is 0 to 255 for 0 to 1.
        Level 0 has all pixels, each next one half as many in a row; `place` is `COLUMN_ROW` of the tile.
        """
        image = opened.get(id)
        found = re.fullmatch(r"(\d{1,6})_(\d{1,6})", place)
        if found is None:
            raise HTTPException(404, "expected a tile as LEVEL/COLUMN_ROW")
        body = await context.work.code(_tile, image, layer, level, int(found[1]), int(found[2]))
        if body is None:
            raise HTTPException(404, "there is no such tile")
        media_type = "image/jpeg" if layer == "image" and level else "image/png"
        return Response(body, media_type=media_type)

    return routes


async def _downloaded(context: Context, image: OpenedImage, kind: str) -> Response:
    if kind not in DOWNLOADS:
        raise HTTPException(404, f"there are {', '.join(DOWNLOADS)}, got {kind[:80]!r}")
    if not image.done:
        raise HTTPException(409, image.error or "the image is not predicted yet")
    pixels = math.prod(image.size)
    if kind == "geojson" and pixels > context.limits.pixels:
        raise TooLargeError(
            f"outlines are drawn of at most {context.limits.pixels} pixels",
            hint="fullyconv predict --geojson has no such limit",
        )
    ending, media_type = DOWNLOADS[kind]
    held = 8 * pixels if kind == "geojson" else 0
    with context.work.place(), context.work.hold(held):
        file, size = await context.work.code(_written, kind, image, ending)
    headers = {"content-disposition": disposition(image.name, ending), "content-length": str(size)}
    return _Sent(file, headers, media_type)


class _Sent(StreamingResponse):
    """The bytes of a file, which is closed when they are sent, or when nobody takes them any more."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(iter(lambda: file.read(SENT), b""), headers=headers, media_type=media_type)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        with self._file:
            await super().__call__(scope, receive, send)


def disposition(name: str, ending: str) -> str:
    """The header that names a download after an image, without whatever a file system or a header may mind."""
    stem = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).stem).strip("._")[:80] or "image"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
    return f"attachment; filename=\"{plain}{ending}\"; filename*=UTF-8''{quote(stem + ending)}"


def _tile(image: OpenedImage, layer: str, level: int, column: int, row: int) -> bytes | None:
    try:
        part = image.tile(layer, level, column, row)
    except FileNotFoundError:  # it was closed meanwhile
        return None
    if part is None:
        return None
    buffer = io.BytesIO()
    picture = PillowImage.fromarray(part)
    if layer == "image" and level:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _written(kind: str, image: OpenedImage, ending: str) -> tuple[BinaryIO, int]:
    """A file to download, which has no name any more: it is gone when it is sent, or when nobody takes it."""
    path = image.folder / f"{secrets.token_hex(8)}{ending}"
    try:
        _WRITERS[kind](image, path)
        file = path.open("rb")
    except Exception as error:
        if image.dropped:  # and its folder with it
            raise UnknownError("the image was closed meanwhile", hint="open it again") from None
        if not isinstance(error, (OSError, FullyConvError)):
            raise
        logging.getLogger(__name__).error("a download could not be written: %s", error)
        raise BusyError("the file could not be written", hint="try again later") from None
    finally:
        path.unlink(missing_ok=True)
    return file, os.fstat(file.fileno()).st_size


def _write_mask(image: OpenedImage, path: Path) -> None:
    spool = path.with_suffix(".values")
    mask = image.mask.level(0)
    reserved(spool, mask.size)
    try:
        values = np.memmap(spool, np.uint8, "r+", shape=image.size)
        for box in blocks(image.size):
            values[box.slices] = image.table.encode(mask[box.slices])
        write_mask(path, values, image.table.color_by_value)
    finally:
        spool.unlink()


def _write_overlay(image: OpenedImage, path: Path) -> None:
    pixels: Image = image.image.level(0)
    mask: Mask = image.mask.level(0)
    if mask.size > LARGE:
        look = Reduced(image.size)
        for box in blocks(image.size):
            look.add_image(box, pixels[box.slices])
            look.add_mask(box, mask[box.slices])
        pixels, mask = look.image, look.mask
    picture = overlay(pixels, mask, image.table)
    save_picture(with_legend(picture, image.table, np.unique(mask).tolist()), path)


def _write_geojson(image: OpenedImage, path: Path) -> None:
    path.write_text(json.dumps(geojson(np.array(image.mask.level(0)), image.table)), encoding="utf-8")


_WRITERS: dict[str, Callable[[OpenedImage, Path], None]] = {
    "mask": _write_mask,
    "overlay": _write_overlay,
    "geojson": _write_geojson,
}
