"""The networks that an encoder can be made of, one file a family."""

import torch

from fullyconv.encoder import EncoderNetwork
from fullyconv.encoders.efficientnet_lite import EfficientNetLite0
from fullyconv.encoders.vgg import VGG16
from fullyconv.errors import UsageError, WeightsError
from fullyconv.weights import initialise, load_into, load_weights

__all__ = ["ENCODER_NAMES", "bare_network", "build_network"]

NETWORKS: dict[str, type[EfficientNetLite0] | type[VGG16]] = {
    EfficientNetLite0.name: EfficientNetLite0,
    VGG16.name: VGG16,
}

ENCODER_NAMES: tuple[str, ...] = tuple(NETWORKS)
"""What `build_network` can build; the first is the default."""


def bare_network(name: str) -> EncoderNetwork:
    """Build a network whose weights are all zero, to be filled by `load_state_dict`.

    Raises:
        UsageError: There is no encoder of that name.
    """
    return _bare(name)


def _bare(name: str) -> EfficientNetLite0 | VGG16:
    if name not in NETWORKS:
        raise UsageError(f"no encoder {name!r}", hint=f"choose one of {', '.join(NETWORKS)}")
    with torch.device("meta"):  # Nothing is drawn from the global random state.
        network = NETWORKS[name]()
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network


def build_network(name: str, weights: str = "pretrained") -> EncoderNetwork:
    """Build a network with its weights.

    Args:
        name: One of `ENCODER_NAMES`.
        weights: "pretrained" (the installed package), "none" (random, seeded: equal every time), or the path of
            a `.pth`, `.pt` or `.safetensors` file in the publisher's key layout.

    Raises:
        UsageError: There is no encoder of that name.
        WeightsError: The weights are missing, damaged or of another network.
    """
    network = _bare(name)
    if weights == "none":
        initialise(network)
        network.weights_source = "random"
        return network
    if weights != "pretrained":
        found = load_weights(weights)
    elif network.packaged is not None:
        found = load_weights(network.packaged)
    else:
        raise WeightsError(
            f"no package brings pretrained weights for {name}",
            hint="give --encoder-weights FILE, torchvision's vgg16-397923af.pth, or none",
        )
    load_into(network, found, network.published_keys(), network.ignored_weights)
    network.weights_source = found.source
    return network
