"""Networks of timm, `timm:NAME`: any of which timm gives features only (extra `timm`).

`timm:resnet18` is a network with its usual weights, `timm:resnet18.a1_in1k` the one with the weights of that tag.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.encoders.adapters import (
    AdaptedNetwork,
    convention_of,
    find_taps,
    from_hub,
    import_library,
    one_line,
    seeded,
)
from fullyconv.errors import UsageError, WeightsError
from fullyconv.weights import Weights, load_weights

__all__ = ["open_network", "published_weights", "rebuild"]

PREFIX = "timm:"

OPTIONS: tuple[dict[str, bool], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})
"""What makes a network take images of any size: nothing, or what vision transformers and Swin have for it."""

LICENCES = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
}
"""timm's names of licences and SPDX's; others are custom ones."""

WEIGHTS_FILE = "model.safetensors"


def open_network(name: str) -> AdaptedNetwork:
    """Build a network of timm with random weights, the same every time.

    Args:
        name: "timm:" and one of timm's names, with or without a tag.

    Raises:
        UsageError: timm is not installed or has no such network, or it cannot be an encoder.
    """
    model = name.removeprefix(PREFIX)
    settings = _settings(model)
    return _build(name, {"model": model, "mean": list(settings["mean"]), "std": list(settings["std"])})


def rebuild(name: str, architecture: Mapping[str, Any]) -> AdaptedNetwork:
    """Build a network as a model file describes it.

    Raises:
        UsageError: As of `open_network`, or a description of another form.
    """
    kinds = {"model": str, "mean": list, "std": list}
    if set(architecture) != set(kinds) or any(type(architecture[key]) is not kind for key, kind in kinds.items()):
        raise UsageError(f"a network of timm is described by {', '.join(kinds)}, got {str(architecture)[:200]}")
    return _build(name, architecture)


def published_weights(name: str, *, offline: bool = False) -> Weights:
    """Return the pretrained weights of a network; download them from the Hugging Face Hub if they are not there.

    Args:
        name: As of `open_network`.
        offline: Download nothing.

    Raises:
        UsageError: timm is not installed or has no such network.
        WeightsError: None are published, or they are not there and must not be downloaded.
        DownloadError: They could not be downloaded.
    """
    model = name.removeprefix(PREFIX)
    repository = _settings(model).get("hf_hub_id")
    hint = "use --encoder-weights FILE with a weights file of timm, or --encoder-weights none"
    if not repository:
        raise WeightsError(f"no pretrained weights are published for {name}", hint=hint)
    hub = importlib.import_module("huggingface_hub")
    path = from_hub(
        lambda local: hub.hf_hub_download(repository, WEIGHTS_FILE, local_files_only=local),
        f"the weights of {repository}",
        hint,
        offline=offline,
    )
    weights = load_weights(path)
    return replace(weights, source=f"hub {repository} sha256:{weights.sha256}")


def _build(name: str, architecture: Mapping[str, Any]) -> AdaptedNetwork:
    timm, model = import_library("timm", "timm"), architecture["model"]
    licence = _settings(model).get("license") or "NOASSERTION"

    def build(options: Mapping[str, bool]) -> nn.Module:
        network: nn.Module = timm.create_model(model, pretrained=False, features_only=True, **options)
        return network.eval()

    options, outline = _outline(name, build)
    taps, sees_all = outline
    with torch.device("meta"):
        whole = timm.create_model(model, pretrained=False)
    adapted = AdaptedNetwork(
        name,
        seeded(lambda: build(options)),
        read,
        taps,
        sees_all,
        convention_of(architecture["mean"], architecture["std"]),
        architecture,
        "timm",
        LICENCES.get(licence, licence),
    )
    own = [key.removeprefix("network.") for key in adapted.state_dict()]
    adapted.publishers_names = _publishers_names(own, whole)
    adapted.ignored_weights = tuple(whole.state_dict().keys() - set(adapted.publishers_names.values()))
    return adapted


def _outline(name: str, build: Callable[[Mapping[str, bool]], nn.Module]) -> Any:
    """The options that a network needs to take images of any size, and its taps."""
    refused: UsageError | None = None
    for options in OPTIONS:
        try:
            with torch.device("meta"):
                network = build(options)
        except TypeError:  # it knows no such option
            continue
        except Exception as error:
            raise UsageError(f"timm cannot give features of {name}: {one_line(error)}") from error
        names: Any = network.feature_info.module_name()  # type: ignore[operator, union-attr]
        try:
            return options, find_taps(name, names, partial(read, network))
        except UsageError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def read(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a network, channels first; some of timm's have them last."""
    maps: list[Tensor] = network(images)
    last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
    return [values.permute(0, 3, 1, 2) if last else values for values in maps]


def _settings(model: str) -> Mapping[str, Any]:
    """What timm says of the pretrained weights of a network."""
    timm = import_library("timm", "timm")
    if ":" in model or not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), 3)
        raise UsageError(
            f"timm has no network {model!r}", hint=f"such as {', '.join(near)}" if near else "timm.list_models()"
        )
    try:
        settings = timm.get_pretrained_cfg(model)
    except RuntimeError:  # no such tag
        tags = ", ".join(timm.list_pretrained(model.split(".")[0]))[:200]
        raise UsageError(
            f"timm has no weights {model!r}", hint=f"it has {tags}" if tags else "leave the tag out"
        ) from None
    found: Mapping[str, Any] = settings.to_dict()
    return found


def _publishers_names(own: list[str], whole: nn.Module) -> dict[str, str]:
    """Under which name of the whole network each weight of the one for features stands."""
    published = whole.state_dict().keys()
    # Stages are flattened there: "stages_0" is "stages.0".
    places = {place.replace(".", "_"): place for place, _ in whole.named_modules() if place}
    names = {}
    for key in own:
        first, _, rest = key.partition(".")
        candidates = (key, key.removeprefix("model."), f"{places.get(first, first)}.{rest}")
        names[key] = next((candidate for candidate in candidates if candidate in published), key)
    return names
