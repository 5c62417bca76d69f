"""The networks that an encoder can be made of, one file a family."""

import torch

from fullyconv.encoder import EncoderNetwork
from fullyconv.encoders.efficientnet_lite import EfficientNetLite0
from fullyconv.encoders.vgg import VGG16, vgg16_fc_layers
from fullyconv.errors import UsageError, WeightsError
from fullyconv.progress import Progress
from fullyconv.weights import Weights, choose_tensors, fetch_weights, initialise, load_weights

__all__ = ["ENCODER_NAMES", "bare_network", "build_network", "fetch_pretrained", "vgg16_fc_layers"]

NETWORKS: tuple[type[EncoderNetwork], ...] = (EfficientNetLite0, VGG16)

ENCODER_NAMES: tuple[str, ...] = tuple(network.name for network in NETWORKS)
"""What `build_network` can build; the first is the default."""


def build_network(name: str, weights: str = "pretrained") -> EncoderNetwork:
    """Build a network with its weights.

    Args:
        name: One of `ENCODER_NAMES`.
        weights: "pretrained" (from an installed package, else from a published file, which is downloaded if it is
            not on this machine), "none" (random, the same every time), or the path of a `.pth`, `.pt` or
            `.safetensors` file in the key layout of its publisher.

    Returns:
        The network in float32 on the CPU; its `weights_source` says where the weights came from.

    Raises:
        UsageError: There is no encoder of that name.
        WeightsError: The weights are missing, damaged or of another network.
    """
    network = bare_network(name)
    if weights == "none":
        initialise(network)
    elif weights != "pretrained":
        _fill(network, load_weights(weights))
    elif (published := network.packaged or network.downloadable) is not None:
        _fill(network, load_weights(published))
    else:
        raise WeightsError(
            f"no pretrained weights are published for {name}",
            hint=f"use --encoder-weights FILE with {network.usual_file}, or --encoder-weights none",
        )
    return network


def fetch_pretrained(name: str, *, offline: bool = False, progress: Progress | None = None) -> None:
    """Download the pretrained weights of a network, where no package brings them and they are not there yet.

    After that `build_network(name)` needs no network connection.

    Args:
        name: One of `ENCODER_NAMES`. Others are for `build_network` to refuse.
        offline: Download nothing.
        progress: Where to report; the console by default.

    Raises:
        WeightsError: They are not there and cannot or must not be downloaded.
    """
    for network in NETWORKS:
        if network.name == name and network.packaged is None and network.downloadable is not None:
            fetch_weights(network.downloadable, offline=offline, progress=progress)


def bare_network(name: str) -> EncoderNetwork:
    """Build a network whose weights are all zero, for `load_state_dict` to fill.

    Raises:
        UsageError: There is no encoder of that name.
    """
    kinds = {network.name: network for network in NETWORKS}
    if name not in kinds:
        raise UsageError(f"no encoder {name!r}", hint=f"choose {' or '.join(ENCODER_NAMES)}")
    # Without storage no default values are drawn: neither time nor the global random state is spent.
    with torch.device("meta"):
        network = kinds[name]()
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network


def _fill(network: EncoderNetwork, weights: Weights) -> None:
    """Copy published weights into a network, or refuse them and leave it as it is."""
    for start, reason in network.misfits:
        if weights.sha256.startswith(start):
            raise WeightsError(
                f"{weights.file} does not fit encoder {network.name}: {reason}",
                hint=f"use {network.usual_file}",
            )
    published = network.published_keys()
    expected = {published[own]: tuple(tensor.shape) for own, tensor in network.state_dict().items()}
    tensors = choose_tensors(weights, expected, network.ignored_weights)
    network.load_state_dict({own: tensors[theirs] for own, theirs in published.items()})
    network.weights_source = weights.source
