"""Encoders alone: classifiers of torchvision and timm, encoders of segmentation_models.pytorch models.

They become weights files for `--encoder-weights`, in the key layout in which our encoder's weights are published.
Of a whole segmentation_models.pytorch model its decoder is left behind: it is no FCN.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from fullyconv.atomic import atomic_path
from fullyconv.encoder import EncoderNetwork
from fullyconv.encoders import ENCODER_NAMES, bare_network, refuse_misfits
from fullyconv.encoders.efficientnet_lite import Block, ConvNorm, EfficientNetLite
from fullyconv.weights import Weights, choose_tensors

__all__ = ["ImportedEncoder", "find_encoder", "save_encoder"]

_PREFIXES = ("encoder.model.", "encoder.", "")
"""How the names of an encoder's tensors begin: in a model on one of timm's networks, in any other, alone."""

_OTHERS = ("decoder.", "segmentation_head.", "classification_head.")
"""How the other tensors of a segmentation_models.pytorch model begin."""

_HEADS = ("fc.", "classifier.", "head.", "conv_head.", "bn2.")
"""How the tensors of classifiers begin that features do not need."""

ImportedEncoder = tuple[str, dict[str, Tensor]]
"""Name of the encoder, and its tensors in the key layout that `--encoder-weights` reads."""


def find_encoder(weights: Weights) -> ImportedEncoder | None:
    """Find the encoder whose weights these are.

    Args:
        weights: Of a classifier, an encoder alone, or a model of segmentation_models.pytorch.

    Returns:
        None where they are no encoder's that is known here.

    Raises:
        WeightsError: They are an encoder's, but have values that are not finite, or want other images.
    """
    prefix = next((start for start in _PREFIXES if any(name.startswith(start) for name in weights.tensors)), "")
    ignored = (*_OTHERS, *(prefix + head for head in _HEADS))
    names = {name for name in weights.tensors if not name.endswith(".num_batches_tracked")}
    for encoder in (name for name in ENCODER_NAMES if not name.endswith("_d8")):  # they have the same tensors
        network = bare_network(encoder)
        state, published = network.state_dict(), network.published_keys()
        for theirs in filter(None, (published, _timm_keys(network))):
            expected = {prefix + theirs[own]: tuple(tensor.shape) for own, tensor in state.items()}
            found = {name for name in names if name in expected or not name.startswith(ignored)}
            if {name: tuple(weights.tensors[name].shape) for name in found} == expected:
                refuse_misfits(network, weights)
                chosen = choose_tensors(weights, expected, ignored)
                tensors = {published[own]: chosen[prefix + theirs[own]] for own in state}
                return encoder, tensors | _classifier(weights, network, prefix)
    return None


def _classifier(weights: Weights, network: EncoderNetwork, prefix: str) -> dict[str, Tensor]:
    """The classifier, which the paper's decoders may start from, where it is in the layout of its publisher."""
    return {
        name: tensor
        for name, tensor in weights.tensors.items()
        if not prefix and name.startswith(network.ignored_weights) and not name.endswith(".num_batches_tracked")
    }


def save_encoder(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write them into a file that `--encoder-weights` reads; never over one that is there.

    Raises:
        UsageError: There is something at the path.
    """
    with atomic_path(path, overwrite=False) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _timm_keys(network: EncoderNetwork) -> dict[str, str]:
    """For each key of an EfficientNet-Lite its name in timm; nothing of others, which have torchvision's."""
    if not isinstance(network, EfficientNetLite):
        return {}
    prefixes = {"stem.conv": "conv_stem", "stem.norm": "bn1"}
    for name, module in network.named_modules():
        if isinstance(module, Block):
            _, stage, place = name.split(".")
            block = f"blocks.{int(stage) - 1}.{place}"
            parts = [part for part in ("expand", "depthwise", "project") if _has(module, part)]
            theirs = ("conv_pw", "conv_dw", "conv_pwl") if len(parts) > 2 else ("conv_dw", "conv_pw")
            for number, (part, conv) in enumerate(zip(parts, theirs, strict=True), start=1):
                prefixes[f"{name}.{part}.conv"] = f"{block}.{conv}"
                prefixes[f"{name}.{part}.norm"] = f"{block}.bn{number}"
    split = ((key, *key.rsplit(".", 1)) for key in network.state_dict())
    return {key: f"{prefixes[prefix]}.{tensor}" for key, prefix, tensor in split}


def _has(block: nn.Module, part: str) -> bool:
    return isinstance(block.get_submodule(part), ConvNorm)
