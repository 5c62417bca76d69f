"""The Open Inference Protocol, version 2 (github.com/kserve/open-inference-protocol), as Triton speaks it.

A model takes `image`, N x H x W x 3 uint8 RGB (or K float32 channels in 0..255), or `encoded`, N image files as
bytes. It gives `mask`, N x H x W class indices, and when asked `probabilities`, N x C x H x W, and `png`, N mask
files. Tensors come and go as JSON, or behind it as bytes (Triton's extension for binary tensors). Each mask is
what `Predictor.predict` gives, bit for bit.
"""

import asyncio
import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from fullyconv import __version__
from fullyconv.errors import UsageError
from fullyconv.predict import Predictor
from fullyconv.serve.context import Context
from fullyconv.serve.predict_route import encoded_mask
from fullyconv.serve.received import TooLargeError, body_of, decoded_bytes, json_of, unless_gone
from fullyconv.serve.sent import Sent
from fullyconv.shapes import Mask, Pixels

__all__ = ["router"]

LENGTH_HEADER = "inference-header-content-length"
"""Bytes of the JSON before binary tensors."""

MOST_IMAGES = 64
"""Of a request."""

MOST_NUMBERS = 2_000_000
"""Of a tensor in the JSON of an answer."""

MOST_IN_A_ROW = 2**15
"""Numbers that become JSON in one go, in which nobody else gets an answer."""

LARGEST_SHAPE = 2**31
"""Of the numbers of a shape."""

_Values = tuple[str, list[int], bytes, Callable[[], str]]
"""Of an output: datatype, shape, bytes, and what makes their values as JSON."""

Parameters = dict[str, Any]


class _Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[Annotated[int, Field(le=LARGEST_SHAPE)]] = Field(max_length=4)
    parameters: Parameters = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    name: Literal["mask", "probabilities", "png"]
    parameters: Parameters = {}


class _Inference(BaseModel):
    id: str = ""
    inputs: list[_Tensor] = Field(min_length=1, max_length=1)
    outputs: list[_Output] = Field(default=[_Output(name="mask")], min_length=1, max_length=3)
    parameters: Parameters = {}


def router(context: Context) -> APIRouter:
    """The routes of the protocol."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @routes.get("", summary="The server")
    def server() -> dict[str, Any]:
        return {"name": "fullyconv", "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live", summary="Whether the process answers")
    def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Whether requests are taken")
    def ready() -> JSONResponse:
        return JSONResponse({"ready": context.work.ready}, 200 if context.work.ready else 503)

    @routes.get("/models/{name}/ready", summary="Whether a model takes requests")
    def model_ready(name: str) -> JSONResponse:
        name, _ = context.model(name)
        return JSONResponse({"name": name, "ready": context.work.ready}, 200 if context.work.ready else 503)

    @routes.get("/models/{name}", summary="What a model takes and gives")
    def metadata(name: str) -> dict[str, Any]:
        return _metadata(*context.model(name))

    @routes.get("/models/{name}/config", include_in_schema=False)
    def config(name: str) -> dict[str, Any]:
        return {"name": context.model(name)[0], "platform": "fullyconv", "max_batch_size": 0}

    @routes.post("/repository/index", summary="The models")
    def index() -> list[dict[str, str]]:
        state = "READY" if context.work.ready else "UNAVAILABLE"
        return [{"name": name, "version": "1", "state": state, "reason": ""} for name in context.work.models]

    @routes.post("/models/{name}/infer", summary="Segment images", response_class=Response)
    async def infer(name: str, request: Request) -> Response:
        return await _infer(context, name, request)

    for path in ("/ready", "", "/infer"):  # the same under an explicit version
        route = next(
            route for route in routes.routes if getattr(route, "path", "") == f"/v2/models/{{name}}{path}"
        )
        routes.add_api_route(
            f"/models/{{name}}/versions/1{path}",
            route.endpoint,  # type: ignore[attr-defined]
            methods=list(route.methods),  # type: ignore[attr-defined]
            include_in_schema=False,
        )
    return routes


async def _infer(context: Context, name: str, request: Request) -> Response:
    name, predictor = context.model(name)
    work = context.work
    work.expect_place()
    async with AsyncExitStack() as held:
        body = await held.enter_async_context(body_of(request, context))
        held.enter_context(work.place())
        head, tail = await work.code(_understood, body, request.headers.get(LENGTH_HEADER))
        given = await work.code(_given, head.inputs[0], tail, predictor)
        images: list[Pixels] = []
        for image in given:
            if isinstance(image, bytes):
                image = await held.enter_async_context(decoded_bytes(image, predictor.image_form, context))
            images.append(image)
            if sum(math.prod(image.shape[:2]) for image in images) > context.limits.pixels:
                raise TooLargeError(f"expected at most {context.limits.pixels} pixels in a request, got more")
        masks = await unless_gone(request, asyncio.gather(*(work.mask(name, image) for image in images)))
        probabilities: list[npt.NDArray[np.float32]] = []
        if any(output.name == "probabilities" for output in head.outputs):
            held.enter_context(work.hold(_bytes_of_probabilities(predictor, masks, context)))
            all_of_them = (work.compute(predictor.probabilities, image) for image in images)
            probabilities = list(await unless_gone(request, asyncio.gather(*all_of_them)))
        text, behind = await work.code(_answer, name, head, predictor, masks, probabilities)
    if not behind:
        return Sent(work, text, "application/json")
    return Sent(work, text + behind, "application/octet-stream", {LENGTH_HEADER: str(len(text))})


def _metadata(name: str, predictor: Predictor) -> dict[str, Any]:
    table, form = predictor.class_table, predictor.image_form
    kind = "UINT8" if form.is_usual else "FP32"
    return {
        "name": name,
        "versions": ["1"],
        "platform": "fullyconv",
        "inputs": [
            {"name": "image", "datatype": kind, "shape": [-1, -1, -1, form.channels]},
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "mask", "datatype": "UINT8", "shape": [-1, -1, -1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, table.num_classes, -1, -1]},
            {"name": "png", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"classes": json.dumps(list(table.names))},
    }


def _understood(body: bytearray, length: str | None) -> tuple[_Inference, memoryview]:
    """The JSON of a request, and the bytes behind it."""
    end = len(body)
    if length is not None:
        if not (re.fullmatch("[0-9]{1,12}", length) and int(length) <= len(body)):
            raise UsageError(f"{LENGTH_HEADER}: expected 0..{len(body)}, got {length[:40]!r}")
        end = int(length)
    return json_of(body[:end], _Inference), memoryview(body)[end:]


def _given(tensor: _Tensor, tail: memoryview, predictor: Predictor) -> Sequence[Pixels | bytes]:
    """The images of a request: arrays in the form that the model reads, or files."""
    form = predictor.image_form
    size = tensor.parameters.get("binary_data_size")
    if size is not None and (not isinstance(size, int) or size != len(tail) or tensor.data is not None):
        raise UsageError(f"{tensor.name}: expected {len(tail)} bytes of data, got {size}")
    if size is None and tensor.data is None:
        raise UsageError(f"{tensor.name}: expected data, got none")
    if not tensor.shape or min(tensor.shape) < 1:
        raise UsageError(f"{tensor.name}: expected a shape of positive numbers, got {tensor.shape}")
    if tensor.shape[0] > MOST_IMAGES:
        raise UsageError(f"{tensor.name}: expected at most {MOST_IMAGES} images, got {tensor.shape[0]}")
    if tensor.name == "encoded" and tensor.datatype == "BYTES" and len(tensor.shape) == 1:
        files = _strings(tail) if size is not None else [_bytes(item) for item in tensor.data or []]
        if len(files) != tensor.shape[0]:
            raise UsageError(f"encoded: expected {tensor.shape[0]} images, got {len(files)}")
        return files
    kind = "UINT8" if form.is_usual else "FP32"
    if (
        tensor.name != "image"
        or tensor.datatype != kind
        or len(tensor.shape) != 4
        or tensor.shape[3] != form.channels
    ):
        raise UsageError(
            f"expected image, {kind} N x H x W x {form.channels}, or encoded, BYTES N, "
            f"got {tensor.name[:40]}, {tensor.datatype[:40]} {' x '.join(map(str, tensor.shape))}"
        )
    dtype = np.dtype(np.uint8 if form.is_usual else np.float32)
    if size is not None:
        if size != math.prod(tensor.shape) * dtype.itemsize:
            raise UsageError(f"image: expected {math.prod(tensor.shape) * dtype.itemsize} bytes, got {size}")
        array = np.frombuffer(tail, dtype).reshape(tensor.shape)
    else:
        array = _numbers(tensor, dtype)
    return list(array)


def _numbers(tensor: _Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The numbers of a tensor in JSON, flat or nested."""
    try:
        values = np.asarray(tensor.data, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise UsageError("image: expected numbers, got others") from None
    if values.size != math.prod(tensor.shape):
        raise UsageError(f"image: expected {math.prod(tensor.shape)} numbers, got {values.size}")
    whole = dtype == np.uint8
    if not ((values >= 0) & (values <= 255)).all() or (whole and (values != np.floor(values)).any()):
        raise UsageError(f"image: expected {'whole numbers' if whole else 'numbers'} in 0..255, got others")
    return values.astype(dtype).reshape(tensor.shape)


def _bytes(item: Any) -> bytes:
    """An image in JSON: bytes as text, each a character, as the protocol has it."""
    try:
        return str(item).encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError("encoded: expected bytes, got text", hint="send images as binary data") from None


def _strings(tail: memoryview) -> list[bytes]:
    """Byte strings, each after its length in 4 bytes, the least first."""
    found, place = [], 0
    while place < len(tail):
        if len(tail) - place < 4 or (length := struct.unpack_from("<I", tail, place)[0]) > len(tail) - place - 4:
            raise UsageError("encoded: the data end within an image")
        found.append(bytes(tail[place + 4 : place + 4 + length]))
        place += 4 + length
    return found


def _bytes_of_probabilities(predictor: Predictor, masks: Sequence[Mask], context: Context) -> int:
    """How much memory they take, their answer included.

    Raises:
        TooLargeError: More than there is for all requests.
    """
    size = 2 * 4 * predictor.class_table.num_classes * sum(mask.size for mask in masks)
    if size > context.limits.held_bytes:
        raise TooLargeError(f"the probabilities take {size} bytes, at most {context.limits.held_bytes} are given")
    return size


def _answer(
    name: str,
    head: _Inference,
    predictor: Predictor,
    masks: Sequence[Mask],
    probabilities: Sequence[npt.NDArray[np.float32]],
) -> tuple[bytes, bytes]:
    """The JSON of an answer, and the bytes behind it."""
    if len({mask.shape for mask in masks}) > 1 and any(output.name != "png" for output in head.outputs):
        raise UsageError(
            "images of several sizes have no common tensor", hint="ask for png, or send them one by one"
        )
    makers: Mapping[str, Callable[[], _Values]] = {
        "mask": lambda: _of_array("UINT8", np.stack(masks)),
        "probabilities": lambda: _of_array("FP32", np.stack(probabilities)),
        "png": lambda: _of_files([encoded_mask(mask, predictor.class_table) for mask in masks]),
    }
    outputs: list[str] = []
    tails: list[bytes] = []
    for output in head.outputs:
        datatype, shape, data, values = makers[output.name]()
        found: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": shape}
        default = head.parameters.get("binary_data_output", False)
        if output.parameters.get("binary_data", default):
            found["parameters"] = {"binary_data_size": len(data)}
            tails.append(data)
            outputs.append(json.dumps(found))
        elif math.prod(shape) > MOST_NUMBERS:
            raise UsageError(
                f"{output.name}: expected at most {MOST_NUMBERS} numbers as JSON, got {math.prod(shape)}",
                hint="ask for binary data",
            )
        else:
            outputs.append(f'{json.dumps(found)[:-1]}, "data": [{values()}]}}')
    document = {"model_name": name, "model_version": "1", **({"id": head.id} if head.id else {})}
    text = f'{json.dumps(document)[:-1]}, "outputs": [{", ".join(outputs)}]}}'
    return text.encode(), b"".join(tails)


def _of_array(datatype: str, array: npt.NDArray[Any]) -> _Values:
    flat = array.ravel()
    starts = range(0, flat.size, MOST_IN_A_ROW)

    def values() -> str:
        return ", ".join(json.dumps(flat[start : start + MOST_IN_A_ROW].tolist())[1:-1] for start in starts)

    return datatype, list(array.shape), array.tobytes(), values


def _of_files(files: Sequence[bytes]) -> _Values:
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    return "BYTES", [len(files)], data, lambda: json.dumps([file.decode("latin-1") for file in files])[1:-1]
