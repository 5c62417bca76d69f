"""The `.caffemodel` files that Long, Shelhamer and Darrell released: FCN-32s, 16s, 8s, 8s at once, FCN-AlexNet.

Such a file is a protocol buffer, NetParameter of Caffe's `caffe.proto`. Google's library reads it (extra `caffe`);
Caffe need not be there, and nothing in a file is run. Only what is needed is declared: names and blobs of layers.
Layers of the older form (V1LayerParameter) and blobs with num, channels, height and width are read as well.
"""

import hashlib
import importlib
import math
from pathlib import Path
from typing import Any

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

# The messages of caffe.proto as far as they are read: name, number and type of each field; "*" says repeated.
# Packed numbers are declared as bytes, which look the same in a file: half a gigabyte of them is never a list.
# `Numbers` is BlobProto once more, for numbers that are not packed.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "bytes*"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "bytes*"),
    },
    "Numbers": {"data": (5, "float*"), "double_data": (8, "double*")},
    "V1LayerParameter": {"name": (4, "bytes"), "blobs": (6, "BlobProto*")},
    "LayerParameter": {"name": (1, "bytes"), "blobs": (7, "BlobProto*")},
    "NetParameter": {"layers": (2, "V1LayerParameter*"), "layer": (100, "LayerParameter*")},
}

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
        path: A `.caffemodel` file. It is held in memory up to three times for a while.

    Raises:
        WeightsError: It is missing, damaged, or no such file.
        UsageError: The library for protocol buffers is missing.
    """
    messages = _messages()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    try:
        net = messages["NetParameter"].FromString(content)
        del content
        tensors = _tensors(net, messages["Numbers"])
    except (ValueError, messages["DecodeError"]) as error:
        what = str(error) if isinstance(error, ValueError) else "it is cut short, or no protocol buffer"
        raise WeightsError(
            f"{path.name} is no readable Caffe model: {what}", hint="the file is damaged, or of another kind"
        ) from None
    return Weights(tensors, f"file {path.name} sha256:{digest}", path.name, digest)


def _messages() -> dict[str, Any]:
    """The classes of `_MESSAGES` by name, and "DecodeError", which they raise for what is none of them."""
    try:
        descriptors, pools, factory, message = (
            importlib.import_module(f"google.protobuf.{name}")
            for name in ("descriptor_pb2", "descriptor_pool", "message_factory", "message")
        )
    except ImportError:
        raise UsageError(
            f"{SUFFIX} files need protobuf", hint='install it with: pip install "fullyconv[caffe]"'
        ) from None
    kinds = descriptors.FieldDescriptorProto
    file = descriptors.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, (number, form) in fields.items():
            label = kinds.LABEL_REPEATED if form.endswith("*") else kinds.LABEL_OPTIONAL
            of = form.rstrip("*")
            if of in _MESSAGES:
                declared.field.add(
                    name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".caffe.{of}"
                )
            else:
                declared.field.add(
                    name=field, number=number, label=label, type=kinds.Type.Value(f"TYPE_{of.upper()}")
                )
    pool = pools.DescriptorPool()  # not the one of the process, where another caffe.proto may be
    pool.Add(file)
    found = {name: factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in _MESSAGES}
    return {**found, "DecodeError": message.DecodeError}


def _tensors(net: Any, numbers: Any) -> dict[str, Tensor]:
    """The blobs of a NetParameter.

    Raises:
        ValueError: What is wrong with it.
    """
    tensors: dict[str, Tensor] = {}
    for layer in (*net.layers, *net.layer):
        name, count = layer.name.decode(), len(layer.blobs)
        if count and (not name or count > len(_BLOBS)):
            raise ValueError(f"layer {name!r} has {count} blobs, expected a name and 1 or 2")
        for part, blob in zip(_BLOBS, layer.blobs, strict=False):
            if f"{name}.{part}" in tensors:
                raise ValueError(f"there are two layers {name!r}")
            tensors[f"{name}.{part}"] = _blob(f"{name}.{part}", blob, numbers)
    if not tensors:
        raise ValueError("it has no layers with weights")
    return tensors


def _blob(name: str, blob: Any, numbers: Any) -> Tensor:
    """The numbers of a BlobProto, in its shape; those of a bias in one dimension."""
    form, packed = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    if packed:
        values = np.frombuffer(b"".join(packed), form).astype(np.float32)
    else:  # not packed, or none
        single = numbers.FromString(blob.SerializeToString())
        values = np.array(single.double_data or single.data, np.float32)
    shape = list(blob.shape.dim) if blob.HasField("shape") else [blob.num, blob.channels, blob.height, blob.width]
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=1) < 1 or math.prod(shape) != len(values):
        raise ValueError(f"{name} has {len(values)} numbers, its shape is {' x '.join(map(str, shape[:8]))}")
    tensor = torch.from_numpy(values)
    return tensor if name.endswith(".bias") else tensor.reshape(shape)
