"""torchvision's `fcn_resnet50` and `fcn_resnet101`: the files published for COCO, or trained by its references.

The published ones are `fcn_resnet50_coco-1167a1af.pth` and `fcn_resnet101_coco-7ecb50ca.pth`: 21 classes, those of
PASCAL VOC, and an auxiliary head. Images are RGB, normalised by ImageNet's means and deviations. Sizes that are
multiples of 8 give torchvision's logits; others are padded here to the next multiple and cut, where torchvision
stretches the logits.
"""

from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError, WeightsError
from fullyconv.formats.voc import NAMES
from fullyconv.model import FCN
from fullyconv.weights import Weights, choose_tensors

__all__ = ["build", "is_ours", "numbered_or_voc"]

_ENCODERS = {6: "resnet50_d8", 23: "resnet101_d8"}
"""By the number of blocks in layer3."""

_SCORE = "classifier.4.weight"
_AUXILIARY = "aux_classifier."


def numbered_or_voc(count: int) -> ClassTable:
    """The classes of PASCAL VOC where there are 21; others are numbered."""
    return ClassTable.from_names(NAMES if count == len(NAMES) else [f"class {index}" for index in range(count)])


def is_ours(weights: Weights) -> bool:
    """Whether tensors have torchvision's names."""
    return "backbone.conv1.weight" in weights.tensors and _SCORE in weights.tensors


def build(weights: Weights, at_once: bool | None = None) -> FCN:
    """Make a model of them.

    Classes are VOC's where there are 21, else they are numbered.

    Args:
        weights: In torchvision's names.
        at_once: Means nothing here.

    Raises:
        UsageError: `at_once` is given.
        WeightsError: Another depth, missing or unknown tensors, another shape.
    """
    if at_once is not None:
        raise UsageError(f"only an FCN-8s is trained at once, {weights.file} is an FCN-ResNet")
    blocks = {key.split(".")[2] for key in weights.tensors if key.startswith("backbone.layer3.")}
    encoder = _ENCODERS.get(len(blocks))
    if encoder is None:
        raise WeightsError(
            f"{weights.file}: expected an FCN-ResNet with 6 or 23 blocks in layer3 (50 or 101 layers), got "
            f"{len(blocks)}"
        )
    auxiliary = any(key.startswith(_AUXILIARY) for key in weights.tensors)
    model = FCN.build(
        numbered_or_voc(len(weights.tensors[_SCORE])),
        encoder=encoder,
        encoder_weights="none",
        decoder="torchvision",
        auxiliary=auxiliary,
    )
    network = model.encoder.network
    own = {own: f"backbone.{theirs}" for own, theirs in network.published_keys().items()}
    state = model.decoder.state_dict()
    expected = {theirs: tuple(network.state_dict()[key].shape) for key, theirs in own.items()}
    expected |= {key: tuple(tensor.shape) for key, tensor in state.items()}
    tensors = choose_tensors(weights, expected)
    network.load_state_dict({key: tensors[theirs] for key, theirs in own.items()})
    model.decoder.load_state_dict({key: tensors[key] for key in state})
    network.weights_source = weights.source
    model.training_record = {"imported": {"source": weights.source, "sha256": weights.sha256}}
    return model
