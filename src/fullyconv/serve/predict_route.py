"""`POST /predict`: an image in, its mask out, as a file, an overlay, areas or outlines."""

import io
import json
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image as PillowImage

from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.image_form import shown
from fullyconv.images import mask_bytes
from fullyconv.pictures import overlay, with_legend
from fullyconv.serve import label_studio
from fullyconv.serve.context import Context
from fullyconv.serve.received import decoded, image_body, received, unless_gone
from fullyconv.serve.sent import Sent
from fullyconv.shapes import Mask, Pixels
from fullyconv.vectors import geojson

__all__ = ["areas", "encoded_mask", "router"]

FORMATS = {
    "mask": "image/png",
    "overlay": "image/png",
    "json": "application/json",
    "geojson": "application/geo+json",
}
"""What can be asked for by `format`, and the types of the answers."""

_BY_TYPE = {"application/geo+json": "geojson", "application/json": "json", "image/png": "mask"}


def router(context: Context) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["predict"])

    @routes.post(
        "/predict",
        summary="Segment an image",
        response_class=Response,
        openapi_extra=image_body(model={"type": "string"}, format={"type": "string", "enum": list(FORMATS)}),
        responses={
            200: {"description": "The mask.", "content": {kind: {} for kind in set(FORMATS.values())}},
            503: {"description": "Too many requests wait; try again after Retry-After seconds."},
        },
    )
    async def predict(request: Request, model: str | None = None, format: str | None = None) -> Response:
        """Give the mask as a palette PNG of mask values, the bytes that `fullyconv predict` writes.

        `format` (a parameter of the address or a field of the form, else by the header Accept) is mask, overlay,
        json (pixels and share of each class) or geojson (outlines). `model` is one of `/v2/models`, by default
        the first.

        A body of JSON is what Label Studio sends: its tasks are answered.
        """
        work = context.work
        work.expect_place()
        if request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse(await label_studio.answer(context, request, model))
        async with received(request, context) as image:
            with work.place():
                kind = _kind(format or image.fields.get("format"), request.headers.get("accept", ""))
                name, predictor = context.model(model or image.fields.get("model"))
                async with decoded(image.path, predictor.image_form, context) as pixels:
                    mask = await unless_gone(request, work.mask(name, pixels))
                    table = predictor.class_table
                    body = await work.code(_encoded, kind, pixels, mask, table, name)
        return Sent(work, body, FORMATS[kind])

    return routes


def _kind(asked: str | None, accept: str) -> str:
    if asked is not None:
        if asked not in FORMATS:
            raise UsageError(f"format is {', '.join(FORMATS)}, got {asked[:80]}")
        return asked
    for part in accept.split(","):
        if (kind := part.partition(";")[0].strip().lower()) in _BY_TYPE:
            return _BY_TYPE[kind]
    return "mask"


def _encoded(kind: str, pixels: Pixels, mask: Mask, table: ClassTable, model: str) -> bytes:
    if kind == "mask":
        return encoded_mask(mask, table)
    if kind == "overlay":
        picture = with_legend(overlay(shown(pixels), mask, table), table, np.unique(mask).tolist())
        buffer = io.BytesIO()
        PillowImage.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()
    if kind == "geojson":
        return json.dumps(geojson(mask, table)).encode()
    return json.dumps({"model": model, **areas(mask, table)}).encode()


def encoded_mask(mask: Mask, table: ClassTable) -> bytes:
    """The bytes of the mask file that `fullyconv predict` writes."""
    return mask_bytes(table.encode(mask), {entry.value: entry.color for entry in table.classes})


def areas(mask: Mask, table: ClassTable) -> dict[str, Any]:
    """Height and width, and pixels and share of each class."""
    counts = np.bincount(mask.ravel(), minlength=table.num_classes).tolist()
    classes = [
        {
            "index": index,
            "name": entry.name,
            "value": entry.value,
            "color": list(entry.color),
            "pixels": counts[index],
            "share": counts[index] / mask.size,
        }
        for index, entry in enumerate(table.classes)
    ]
    return {"height": mask.shape[0], "width": mask.shape[1], "classes": classes}
