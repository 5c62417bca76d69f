"""The `.caffemodel` files that Long, Shelhamer and Darrell released: FCN-32s, 16s, 8s, 8s at once, FCN-AlexNet.

Such a file is a protocol buffer, NetParameter of Caffe's `caffe.proto`. Only what is needed of it is read: names
and blobs of the layers. That takes a page of code, so neither Caffe nor a library for protocol buffers has to be
there, and nothing in a file is run. Layers of the older form (V1LayerParameter) and blobs with num, channels,
height and width are read as well.
"""

import hashlib
import math
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullyconv.decoders.fcn import AT_ONCE_SCALES, SCALE_NAMES
from fullyconv.errors import UsageError, WeightsError
from fullyconv.importers.pytorch_fcn import build_released, decide_at_once, stride_of
from fullyconv.model import FCN
from fullyconv.weights import Weights

__all__ = ["SUFFIX", "build", "is_ours", "read"]

SUFFIX = ".caffemodel"

# Numbers of fields in caffe.proto.
_LAYERS = {2: (4, 6), 100: (1, 7)}  # NetParameter.layers and .layer: the numbers of their name and blobs
_FLOATS, _SHAPE, _DOUBLES = 5, 7, 8
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MOST_DIMENSIONS = 32

_BLOBS = ("weight", "bias")


def is_ours(weights: Weights) -> bool:
    """Whether they were read from such a file."""
    return weights.file.endswith(SUFFIX)


def build(weights: Weights, at_once: bool | None = None) -> FCN:
    """Make a model of them.

    Classes are VOC's where there are 21, else they are numbered. Images are BGR less VOC's mean, which is that
    of PASCAL-Context, too; the networks for NYUDv2 had another one and are refused by name.

    Args:
        weights: What `read` gave.
        at_once: Whether an FCN-8s was trained at once; by default whether it has layers scale_pool4 and
            scale_pool3, or is named so ("atonce").

    Raises:
        UsageError: `at_once` for a network that is no FCN-8s, or against what its layers say.
        WeightsError: No such network, missing or unknown layers, another shape.
    """
    if "nyud" in weights.file.lower():
        raise WeightsError(
            f"{weights.file}: expected a network for photographs less VOC's mean, those of NYUDv2 have another "
            "mean, or depth in place of colours"
        )
    if "conv1_1.weight" not in weights.tensors and "conv1.weight" in weights.tensors:
        if at_once is not None:
            raise UsageError(f"only an FCN-8s is trained at once, {weights.file} is an FCN-AlexNet")
        form = {"fc_kernel": 6, "last_kernel": 63}
        return build_released(weights, "caffenet_pad_100", 32, (False, ""), "FCN-AlexNet", **form)
    scaled = _take_scales(weights)
    if scaled and at_once is False:
        raise UsageError(f"{weights.file} has the layers {', '.join(SCALE_NAMES.values())}: it is FCN-8s at once")
    stride = stride_of(weights)
    choice = decide_at_once(weights, stride, at_once, (True, "by its layers") if scaled else None)
    return build_released(weights, "vgg16_pad_100", stride, choice)


def _take_scales(weights: Weights) -> bool:
    """Take the constant factors out of the weights, where there are any, and check them."""
    found = {step: f"{name}.weight" for step, name in SCALE_NAMES.items() if f"{name}.weight" in weights.tensors}
    if len(found) == 1:
        raise WeightsError(f"{weights.file}: expected {' and '.join(SCALE_NAMES.values())}, got only one of them")
    for step, key in found.items():
        factors, name = weights.tensors.pop(key), SCALE_NAMES[step]
        if not torch.allclose(factors, torch.tensor(AT_ONCE_SCALES[step]), rtol=1e-5, atol=0):
            raise WeightsError(
                f"{weights.file}: expected every factor of {name} to be {AT_ONCE_SCALES[step]:g}, got "
                f"{float(factors.min()):g} to {float(factors.max()):g}"
            )
    return bool(found)


def read(path: Path) -> Weights:
    """Read the blobs of all layers: `NAME.weight` and `NAME.bias`, float32.

    Args:
        path: A `.caffemodel` file.

    Raises:
        WeightsError: It is missing, damaged, or no such file.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            there = path.stat().st_size > 0
            data = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ) if there else b"")
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from None
    try:
        tensors = _tensors(data)
    except ValueError as error:
        raise WeightsError(
            f"{path.name} is no readable Caffe model: {error}", hint="the file is damaged, or of another kind"
        ) from None
    return Weights(tensors, f"file {path.name} sha256:{digest}", path.name, digest)


def _tensors(data: memoryview) -> dict[str, Tensor]:
    """The blobs of a NetParameter.

    Raises:
        ValueError: What is wrong with it.
    """
    tensors: dict[str, Tensor] = {}
    for number, kind, content in _fields(data):
        if number not in _LAYERS or kind != _BYTES:
            continue
        name_number, blob_number = _LAYERS[number]
        fields = list(_fields(content))
        names = [bytes(value) for number, kind, value in fields if (number, kind) == (name_number, _BYTES)]
        blobs = [value for number, kind, value in fields if (number, kind) == (blob_number, _BYTES)]
        if not blobs:
            continue
        name = names[-1].decode() if names else ""
        if not name or len(blobs) > len(_BLOBS):
            raise ValueError(f"layer {name!r} has {len(blobs)} blobs, expected a name and 1 or 2")
        for part, blob in zip(_BLOBS, blobs, strict=False):
            if f"{name}.{part}" in tensors:
                raise ValueError(f"there are two layers {name!r}")
            tensors[f"{name}.{part}"] = _blob(f"{name}.{part}", blob)
    if not tensors:
        raise ValueError("it has no layers with weights")
    return tensors


def _blob(name: str, data: memoryview) -> Tensor:
    """The numbers of a BlobProto, in its shape; those of a bias in one dimension."""
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    parts: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    for number, kind, content in _fields(data):
        if number in _LEGACY and kind == _VARINT:
            legacy[number] = int.from_bytes(content, "little")
        elif number == _SHAPE and kind == _BYTES:
            shape = _dimensions(content)
        elif number in (_FLOATS, _DOUBLES) and kind in (_BYTES, _FIXED32, _FIXED64):
            form = "<f4" if number == _FLOATS else "<f8"
            parts.append(np.frombuffer(content, form).astype(np.float32))
    wanted = shape if shape is not None else [legacy.get(number, 0) for number in _LEGACY]
    numbers = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if len(wanted) > _MOST_DIMENSIONS or 0 in wanted or math.prod(wanted) != len(numbers):
        raise ValueError(f"{name} has {len(numbers)} numbers, its shape is {' x '.join(map(str, wanted[:8]))}")
    tensor = torch.from_numpy(numbers)
    return tensor if name.endswith(".bias") else tensor.reshape(wanted)


def _dimensions(data: memoryview) -> list[int]:
    """The dimensions of a BlobShape, packed or one by one."""
    found: list[int] = []
    for number, kind, content in _fields(data):
        if number == 1 and kind == _VARINT:
            found.append(int.from_bytes(content, "little"))
        elif number == 1 and kind == _BYTES:
            place = 0
            while place < len(content):
                value, place = _varint(content, place)
                found.append(value)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, kind and content of each field of a message; a varint as 8 bytes, the least first.

    Raises:
        ValueError: It is no message, or is cut short.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, memoryview(value.to_bytes(8, "little"))
            continue
        if number == 0 or kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"there is no field {number} of kind {kind} in a protocol buffer")
        if kind == _BYTES:
            length, place = _varint(data, place)
        else:
            length = 8 if kind == _FIXED64 else 4
        if length > len(data) - place:
            raise ValueError("it ends within a field")
        yield number, kind, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the least first; and where it ends."""
    value = 0
    for shift in range(_LONGEST_VARINT):
        if place >= len(data):
            raise ValueError("it ends within a number")
        byte = data[place]
        value |= (byte & 0x7F) << (7 * shift)
        place += 1
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("a number is longer than ten bytes")
