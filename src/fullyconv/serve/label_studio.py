"""Label Studio ML backend (github.com/HumanSignal/label-studio-ml-backend): masks as pre-annotations.

Label Studio sends tasks, which name their images. No address is followed: an image is taken out of the task itself
(a `data:` URI), or found by its name in the one folder that the operator gave (`--images`), such as Label Studio's
own upload folder.
"""

import base64
import binascii
import secrets
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from fullyconv.class_table import ClassTable
from fullyconv.errors import DataError, UsageError
from fullyconv.formats.label_studio import brush_region, image_of_task
from fullyconv.formats.labels import is_background
from fullyconv.serve.context import Context
from fullyconv.serve.received import body_of, decoded, decoded_bytes, json_of, unless_gone
from fullyconv.shapes import Mask

__all__ = ["answer", "router"]

MOST_TASKS = 64
"""Of a request."""

LONGEST_NAME = 1000
"""Signs of the name of an image, with its folders."""

MOST_XML = 2**16
"""Characters of a labelling configuration."""


class _Tasks(BaseModel):
    tasks: list[dict[str, Any]] = Field(max_length=MOST_TASKS)
    label_config: str | None = Field(default=None, max_length=MOST_XML)


def router(context: Context) -> APIRouter:
    """The routes but `/predict`, which is shared (`answer`)."""
    routes = APIRouter(tags=["Label Studio"])

    @routes.get("/health", summary="Whether the backend is there")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "fullyconv"}

    @routes.post("/setup", summary="A project begins to use the backend")
    def setup() -> dict[str, str]:
        return {"model_version": context.model(None)[0]}

    @routes.post("/webhook", status_code=201, summary="An annotation was made: nothing is trained here")
    def webhook() -> dict[str, Any]:
        return {"result": {}}

    return routes


async def answer(context: Context, request: Request, model: str | None) -> dict[str, Any]:
    """Predict the tasks of a request.

    Raises:
        UsageError: It is not understood.
        DataError: An image of it cannot be had.
    """
    name, predictor = context.model(model)
    work, results = context.work, []
    async with body_of(request, context) as body:
        with work.place():
            asked = await work.code(json_of, body, _Tasks)
            names, labels = await work.code(_brush, asked.label_config)
            for number, task in enumerate(asked.tasks):
                image = await work.code(_image, task, f"task {number}", context.label_studio_images)
                form = predictor.image_form
                async with (
                    decoded(image, form, context)
                    if isinstance(image, Path)
                    else decoded_bytes(image, form, context)
                ) as pixels:
                    found = await unless_gone(request, work.mask_with_confidence(name, pixels))
                regions = await work.code(_regions, *found, predictor.class_table, names, labels)
                results.append({"result": regions, "score": float(found[1].mean()), "model_version": name})
    return {"results": results}


def _brush(configuration: str | None) -> tuple[tuple[str, str], frozenset[str] | None]:
    """The names of the brush and of its image in a labelling configuration, and its labels; None for any."""
    if configuration is None:
        return ("label", "image"), None
    if "<!doctype" in configuration.lower() or "<!entity" in configuration.lower():
        raise UsageError("label_config: expected a labelling configuration, got a document type")
    try:
        brush = ElementTree.fromstring(configuration).find(".//BrushLabels")
    except (ElementTree.ParseError, ValueError, RecursionError):
        raise UsageError("label_config: expected a labelling configuration, got no XML") from None
    if brush is None:
        raise UsageError("label_config: expected a BrushLabels, got none", hint="masks come as strokes of a brush")
    labels = frozenset(label.get("value", "") for label in brush.iter("Label"))
    return (brush.get("name", "label"), brush.get("toName", "image")), labels


def _image(task: dict[str, Any], where: str, folder: Path | None) -> bytes | Path:
    """The image of a task: the bytes of one inside it, or one of the folder by its name."""
    data = task.get("data")
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected data, got none")
    for text in data.values():
        if isinstance(text, str) and text.startswith("data:image/"):
            return _file(text, where)
    if folder is None:
        raise DataError(
            f"{where}: expected an image in the task, as data:image/png;base64,...",
            hint="or start the service with --label-studio-images DIR, where images are found by their names",
        )
    names = {key: text for key, text in data.items() if isinstance(text, str) and len(text) <= LONGEST_NAME}
    try:
        path = image_of_task(folder, names, where)
        inside = path.resolve().is_relative_to(folder.resolve())
    except (DataError, OSError, ValueError):  # names too long, of no address, with a zero byte
        inside = False
    if not inside:
        raise DataError(f"{where}: its image is not in the folder of images")
    return path


def _file(text: str, where: str) -> bytes:
    """The bytes of a `data:` URI."""
    kind, _, content = text.partition(",")
    try:
        file = base64.b64decode(content, validate=True) if kind.endswith(";base64") else b""
    except (binascii.Error, ValueError):
        file = b""
    if not file:
        raise DataError(f"{where}: expected data:image/...;base64, followed by base64")
    return file


def _regions(
    mask: Mask,
    confidence: npt.NDArray[np.float32],
    table: ClassTable,
    names: tuple[str, str],
    labels: frozenset[str] | None,
) -> list[dict[str, Any]]:
    """A region for each class of a mask that is a label there and not the background."""
    regions = []
    for index in np.unique(mask).tolist():
        label = table.names[index]
        if is_background(label) if labels is None else label not in labels:
            continue
        where = mask == index
        score = float(confidence[where].mean())
        regions.append(
            {"id": f"{label}-{secrets.token_hex(4)}", "score": score, **brush_region(where, label, names)}
        )
    return regions
