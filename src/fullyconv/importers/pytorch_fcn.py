"""wkentaro's pytorch-fcn: FCN-32s, 16s, 8s and 8s at once, converted from Caffe or trained by its scripts.

Its files are bare state dicts (`fcn8s_from_caffe.pth`) or training checkpoints (`checkpoint.pth.tar`,
`model_best.pth.tar`). The networks are those that Long, Shelhamer and Darrell released, padding by 100 pixels
included (`fullyconv.decoders.pad_100`), and so are the images: BGR in 0..255 less ImageNet's mean. FCN-8s and
FCN-8s at once have the same tensors and differ in two factors, which no tensor tells.
"""

from collections.abc import Mapping

import torch

from fullyconv.decoders import build_decoder
from fullyconv.encoder import Encoder
from fullyconv.encoders import bare_network
from fullyconv.errors import UsageError, WeightsError
from fullyconv.importers.torchvision import numbered_or_voc
from fullyconv.model import FCN
from fullyconv.weights import Weights, choose_tensors

__all__ = ["build", "build_released", "decide_at_once", "is_ours", "stride_of"]

_LAST = {"upscore.weight": 32, "upscore16.weight": 16, "upscore8.weight": 8}
"""The transposed convolution to pixels, and the stride of the network that has it."""

_ARCHES = {"FCN32s": (32, False), "FCN16s": (16, False), "FCN8s": (8, False), "FCN8sAtOnce": (8, True)}
"""What training checkpoints call their network."""

_MOST_CHANNELS = 2**16
"""Of a layer that a file may claim to have."""

Choice = tuple[bool, str]
"""Whether a network is FCN-8s at once, and what says so."""


def is_ours(weights: Weights) -> bool:
    """Whether tensors have the names of a released FCN on VGG16."""
    return {"conv1_1.weight", "score_fr.weight"} <= weights.tensors.keys()


def build(weights: Weights, at_once: bool | None = None) -> FCN:
    """Make a model of them.

    Classes are VOC's where there are 21, else they are numbered.

    Args:
        weights: In the names of pytorch-fcn.
        at_once: Whether an FCN-8s was trained at once; by default what the checkpoint's `arch` says, else the name
            of the file ("atonce").

    Raises:
        UsageError: `at_once` for a network that is no FCN-8s.
        WeightsError: Missing or unknown tensors, another shape, or a checkpoint that names another network.
    """
    stride = stride_of(weights)
    said = _ARCHES.get(weights.arch)
    if said is not None and said[0] != stride:
        raise WeightsError(
            f"{weights.file} says that it is {weights.arch}, its tensors are those of FCN-{stride}s"
        )
    known = None if said is None else (said[1], f"arch {weights.arch}")
    return build_released(weights, "vgg16_pad_100", stride, decide_at_once(weights, stride, at_once, known))


def stride_of(weights: Weights) -> int:
    """The stride of the finest skip: 32, 16 or 8.

    Raises:
        WeightsError: No last transposed convolution, or several.
    """
    found = [name for name in _LAST if name in weights.tensors]
    if len(found) != 1:
        raise WeightsError(
            f"{weights.file}: expected one of {', '.join(_LAST)}, got {', '.join(found) or 'none'}",
            hint="known are FCN-32s, FCN-16s and FCN-8s with the names of their authors",
        )
    return _LAST[found[0]]


def decide_at_once(weights: Weights, stride: int, asked: bool | None, known: Choice | None) -> Choice:
    """Decide between FCN-8s and FCN-8s at once.

    Args:
        weights: Whose file may be named after it.
        stride: Of the network: only 8 leaves a choice.
        asked: What the user says, if anything. It counts first.
        known: What the file itself says, if anything. It counts before its name.

    Raises:
        UsageError: At once is asked for at another stride.
    """
    if stride != 8:
        if asked:
            raise UsageError(f"only an FCN-8s is trained at once, {weights.file} is an FCN-{stride}s")
        return False, ""
    if asked is not None:
        return asked, "as asked for"
    if known is not None:
        return known
    if "atonce" in weights.file.lower().replace("-", "").replace("_", ""):
        return True, "by the name of the file"
    return False, "nothing says at once"


def build_released(
    weights: Weights, encoder: str, stride: int, at_once: Choice, title: str = "", **form: int
) -> FCN:
    """Make a model of a released network, every tensor checked by name and shape.

    Args:
        weights: In the authors' names.
        encoder: One of `fullyconv.encoders.RELEASED`.
        stride: Of the finest skip.
        at_once: Whether it is FCN-8s at once, and what says so.
        title: What to call it; "FCN-8s" or the like if "".
        form: Options of the decoder that are not usual.

    Raises:
        WeightsError: Missing or unknown tensors, or another shape.
    """
    network = bare_network(encoder)
    fixed = Encoder(network, [step for step in (8, 16, 32) if step >= stride])
    count, width = (_outputs(weights, f"{name}.weight") for name in ("score_fr", "fc7"))
    with torch.device("meta"):  # nothing is allocated until the file has proved to hold tensors of these sizes
        trained = build_decoder(
            "fcn_pad_100",
            fixed.specs,
            count,
            stride=stride,
            at_once=at_once[0],
            width=width,
            **form,
        )
    parts = (network, trained)
    expected = {key: tuple(tensor.shape) for part in parts for key, tensor in part.state_dict().items()}
    tensors = choose_tensors(weights, expected)
    trained.to_empty(device="cpu")
    for part in parts:
        part.load_state_dict({key: tensors[key] for key in part.state_dict()})
    network.weights_source = weights.source
    name = title or f"FCN-{stride}s{' at once' if at_once[0] else ''}"
    record: Mapping[str, str] = {
        "source": weights.source,
        "sha256": weights.sha256,
        "network": f"{name} ({at_once[1]})" if at_once[1] else name,
    }
    return FCN(fixed, trained, numbered_or_voc(count), {"imported": dict(record)})


def _outputs(weights: Weights, name: str) -> int:
    """Channels that a convolution gives, 1 where it is missing or none: comparing shapes will then say so."""
    tensor = weights.tensors.get(name)
    return 1 if tensor is None or tensor.ndim < 4 else min(max(len(tensor), 1), _MOST_CHANNELS)
