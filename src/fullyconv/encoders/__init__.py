"""The networks that an encoder can be made of, one file a family."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullyconv.encoder import EncoderNetwork
from fullyconv.encoders import timm, transformers
from fullyconv.encoders.alexnet import CaffeNetPad100
from fullyconv.encoders.cae import CAE, Architecture, CAENetwork, load_cae
from fullyconv.encoders.channels import with_channels
from fullyconv.encoders.efficientnet_lite import EfficientNetLite
from fullyconv.encoders.resnet import ResNet
from fullyconv.encoders.vgg import VGG16, VGG16Pad100, vgg16_fc_layers
from fullyconv.errors import UsageError, WeightsError
from fullyconv.progress import Progress
from fullyconv.weights import Weights, choose_tensors, fetch_weights, initialise, load_weights

__all__ = [
    "ENCODER_NAMES",
    "bare_network",
    "build_network",
    "classifier_layers",
    "fetch_pretrained",
    "is_adapted",
    "is_cae",
    "open_cae",
    "refuse_misfits",
    "vgg16_fc_layers",
]

NETWORKS: dict[str, Callable[[], EncoderNetwork]] = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, 1),
    "efficientnet_lite2": partial(EfficientNetLite, 2),
    "vgg16": VGG16,
    "resnet18": partial(ResNet, 18),
    "resnet34": partial(ResNet, 34),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "resnet50_d8": partial(ResNet, 50, dilated=True),
    "resnet101_d8": partial(ResNet, 101, dilated=True),
}

ENCODER_NAMES: tuple[str, ...] = tuple(NETWORKS)
"""What `build_network` can build; the first is the default."""

RELEASED: dict[str, Callable[[], EncoderNetwork]] = {
    "vgg16_pad_100": VGG16Pad100,
    "caffenet_pad_100": CaffeNetPad100,
}
"""Those of released FCNs, which come with their decoders (`fullyconv.importers`). They pad by 100 pixels, which
training on crops does not know: it is not offered them."""

CAE_PREFIX = "cae:"

MODEL_FILE_KEYS = ("encoder.", "decoder.")
"""How the names of tensors begin in a model file."""

ADAPTERS = {timm.PREFIX: timm, transformers.PREFIX: transformers}
"""By the beginning of their names: what opens the networks of other libraries."""


def build_network(name: str, weights: str = "pretrained", channels: int = 3) -> EncoderNetwork:
    """Build a network with its weights.

    Args:
        name: One of `ENCODER_NAMES`; "cae:" and the path of a file that `fullyconv.pretrain` wrote; "timm:" and a
            name of timm; "hf:" and a folder or a name for transformers.
        weights: "pretrained" (from that file or an installed package, else from a published file, which is
            downloaded if it is not on this machine), "none" (random, the same every time), or the path of a
            `.pth`, `.pt` or `.safetensors` file in the key layout of its publisher, or of a model file, whose
            encoder is taken.
        channels: Of the images; the first convolution is adapted where they are not three (`with_channels`).

    Returns:
        The network in float32 on the CPU; its `weights_source` says where the weights came from.

    Raises:
        UsageError: There is no encoder of that name.
        WeightsError: The weights are missing, damaged or of another network.
        ModelFileError: The autoencoder's file is missing or damaged.
    """
    if is_cae(name):
        return open_cae(name, weights).down
    adapter = _adapter_of(name)
    network = adapter.open_network(name) if adapter else bare_network(name)
    if weights == "none":
        if not adapter:
            initialise(network)
    elif weights != "pretrained":
        source = load_weights(weights)
        if _is_model_file(source):
            network = with_channels(network, channels)  # as the encoder in it is
            _fill(network, source)
            return network
        _fill(network, source)
    elif adapter:
        _fill(network, adapter.published_weights(name))
    elif (published := network.packaged or network.downloadable) is not None:
        _fill(network, load_weights(published))
    else:
        raise WeightsError(
            f"no pretrained weights are published for {name}",
            hint=f"use --encoder-weights FILE with {network.usual_file}, or --encoder-weights none",
        )
    return with_channels(network, channels)


def classifier_layers(name: str, weights: str) -> dict[str, Tensor]:
    """Read fc6 and fc7 of the classifier that an encoder was (`vgg16_fc_layers`), to start a decoder from.

    Args:
        name: The encoder.
        weights: Those of the encoder, as for `build_network`.

    Returns:
        Nothing where the encoder is not VGG16, its weights are random or come from a model file.

    Raises:
        WeightsError: The file has no classifier.
    """
    if name != VGG16.name or weights == "none":
        return {}
    source = load_weights(VGG16.downloadable if weights == "pretrained" else weights)
    if _is_model_file(source):
        return {}
    if not any(key.startswith("classifier.") for key in source.tensors):
        raise WeightsError(
            f"{source.file} has no classifier, which fc6 and fc7 start from",
            hint="leave --fc out, or give a file of the whole VGG16",
        )
    return vgg16_fc_layers(source)


def fetch_pretrained(name: str, *, offline: bool = False, progress: Progress | None = None) -> None:
    """Download the pretrained weights of a network, where no package brings them and they are not there yet.

    After that `build_network(name)` needs no network connection.

    Args:
        name: One of `ENCODER_NAMES`, or of another library's. Others are for `build_network` to refuse.
        offline: Download nothing.
        progress: Where to report; the console by default.

    Raises:
        WeightsError: They are not there and cannot or must not be downloaded.
    """
    if adapter := _adapter_of(name):
        adapter.published_weights(name, offline=offline)
    elif name in NETWORKS:
        network = _without_storage(NETWORKS[name])
        if network.packaged is None and network.downloadable is not None:
            fetch_weights(network.downloadable, offline=offline, progress=progress)


def is_cae(name: str) -> bool:
    """Whether an encoder's name is "cae:" and a file."""
    return name.startswith(CAE_PREFIX)


def is_adapted(name: str) -> bool:
    """Whether an encoder's name is one of a network of another library."""
    return _adapter_of(name) is not None


def _adapter_of(name: str) -> Any:
    """What opens the networks of the library that a name begins with; None for our own."""
    return next((adapter for prefix, adapter in ADAPTERS.items() if name.startswith(prefix)), None)


def open_cae(name: str, weights: str = "pretrained") -> CAE:
    """Read the autoencoder of an encoder's name, `cae:FILE`.

    Args:
        name: "cae:" and the path of its file.
        weights: "pretrained", "none" for random weights in its form, or a model file whose encoder it was.

    Raises:
        UsageError: Other weights.
        ModelFileError: The file is missing, damaged or no autoencoder.
    """
    cae = load_cae(name.removeprefix(CAE_PREFIX))
    if weights == "none":
        cae.initialise()
        cae.down.weights_source = "random"
    elif weights != "pretrained":
        source = load_weights(weights)
        if not _is_model_file(source):
            raise UsageError(
                f"the weights of an autoencoder are in its own file, got encoder_weights {weights}",
                hint="leave --encoder-weights out, or give none or a model file whose encoder it was",
            )
        _fill(cae.down, source)
    return cae


def bare_network(name: str, architecture: Mapping[str, Any] | None = None, channels: int = 3) -> EncoderNetwork:
    """Build a network for `load_state_dict` to fill: its weights are all zero, another library's random.

    Args:
        name: One of `ENCODER_NAMES` or `RELEASED`, "cae", or what another library's network is called.
        architecture: `EncoderNetwork.architecture` of a "cae" or another library's.
        channels: Of the images, as of `build_network`.

    Raises:
        UsageError: There is no encoder of that name, or none of that form.
    """
    if architecture is not None and (adapter := _adapter_of(name)):
        return with_channels(adapter.rebuild(name, architecture), channels)
    cae = name == CAENetwork.name and architecture is not None
    networks = NETWORKS | RELEASED
    if not cae and (name not in networks or architecture is not None):
        raise UsageError(f"no encoder {name!r}", hint=f"choose one of {', '.join(NETWORKS)}")
    if architecture is not None:
        network = _without_storage(partial(CAENetwork, Architecture.from_json(architecture)))
    else:
        network = _without_storage(networks[name])
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network if cae else with_channels(network, channels)


def _without_storage(kind: Callable[[], EncoderNetwork]) -> EncoderNetwork:
    """Build a network without drawing default values: neither time nor the global random state is spent."""
    with torch.device("meta"):
        return kind()


def _is_model_file(weights: Weights) -> bool:
    """Whether tensors are those of a model file of ours."""
    return {name.split(".")[0] + "." for name in weights.tensors} == set(MODEL_FILE_KEYS)


def refuse_misfits(network: EncoderNetwork, weights: Weights) -> None:
    """Refuse published weights that have the right tensors, but want other images than the network is fed.

    Raises:
        WeightsError: They are one of `EncoderNetwork.misfits`.
    """
    for start, reason in network.misfits:
        if weights.sha256.startswith(start):
            raise WeightsError(
                f"{weights.file} does not fit encoder {network.name}: {reason}",
                hint=f"use {network.usual_file}",
            )


def _fill(network: EncoderNetwork, weights: Weights) -> None:
    """Copy published weights into a network, or refuse them and leave it as it is."""
    refuse_misfits(network, weights)
    state = network.state_dict()
    published, ignored = network.published_keys(), network.ignored_weights
    if _is_model_file(weights):
        published, ignored = {own: MODEL_FILE_KEYS[0] + own for own in state}, MODEL_FILE_KEYS[1:]
    expected = {theirs: tuple(state[own].shape) for own, theirs in published.items()}
    tensors = choose_tensors(weights, expected, ignored)
    network.load_state_dict({own: tensors[theirs] for own, theirs in published.items()})
    network.weights_source = weights.source
