"""Networks of transformers, `hf:NAME`: any of which `AutoBackbone` gives features (extra `hf`).

`hf:FOLDER` is a folder with `config.json` and, for its weights, safetensors; `hf:facebook/dinov2-small` one of the
Hugging Face Hub. Only code of the installed library is run, whatever a folder brings.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fullyconv.encoder import tensors_digest
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
from fullyconv.weights import Weights

__all__ = ["open_network", "published_weights", "rebuild"]

PREFIX = "hf:"

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

LEFT_OUT = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
    "quantization_config",
)
"""Entries of a configuration that say nothing of the form of the network, or would name other code."""

IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""How entries end, at any depth, that name code to compute with: it could be somebody's on the Hub."""

OF_OTHERS = ("timm_backbone", "timm_wrapper")
"""Kinds that stand for networks of another library."""

LARGEST_DEPTH = 1000
"""Layers that a description may ask for: each is made before any shape is compared."""

ADDED = "hidden_states_norms."
"""What the library adds to networks of stages for features: layer norms, which begin with gain 1 and shift 0."""


def open_network(name: str, *, offline: bool = False) -> AdaptedNetwork:
    """Build a network of transformers with random weights, the same every time.

    Args:
        name: "hf:" and a folder, or a name of the Hugging Face Hub.
        offline: Download nothing.

    Raises:
        UsageError: transformers is not installed, there is no such network, or it cannot be an encoder.
        WeightsError: The configuration cannot be read, or is not there and must not be downloaded.
        DownloadError: It cannot be downloaded.
    """
    return rebuild(name, _description(name, offline))


def rebuild(name: str, architecture: Mapping[str, Any]) -> AdaptedNetwork:
    """Build a network as a model file describes it; nothing is read or downloaded.

    Raises:
        UsageError: transformers is not installed, or has no such network.
    """
    transformers = import_library("transformers", "hf")
    kinds = {"config": dict, "mean": list, "std": list}
    if set(architecture) != set(kinds) or any(type(architecture[key]) is not kind for key, kind in kinds.items()):
        raise UsageError(f"a network of transformers is described by {', '.join(kinds)}")
    config = dict(architecture["config"])
    kind = config.get("model_type")
    label = f"{PREFIX}{kind}"
    taps, sees_all = _outline(name, transformers, config)
    config["out_features"] = [tap.name for tap in taps]
    config.pop("out_indices", None)
    network = seeded(lambda: _create(transformers, config))
    convention = convention_of(architecture["mean"], architecture["std"])
    described = {"config": config, "mean": architecture["mean"], "std": architecture["std"]}
    return AdaptedNetwork(label, network, read, taps, sees_all, convention, described, "transformers")


def published_weights(name: str, *, offline: bool = False) -> Weights:
    """Return the weights of a folder, or of a name of the Hugging Face Hub, downloaded if they are not there.

    Args:
        name: As of `open_network`.
        offline: Download nothing.

    Raises:
        WeightsError: They are missing, damaged, or of another network.
        DownloadError: They could not be downloaded.
    """
    transformers, source = import_library("transformers", "hf"), name.removeprefix(PREFIX)
    with torch.device("meta"):
        described = rebuild(name, _description(name, offline)).architecture or {}
    settings = _settings(transformers, described["config"])
    kind = transformers.MODEL_FOR_BACKBONE_MAPPING[type(settings)]

    def load(local: bool) -> Any:
        options = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": local}
        with _quiet(transformers, local):
            return kind.from_pretrained(
                source, config=settings, dtype=torch.float32, output_loading_info=True, **options
            )

    network, found = _read(load, f"the weights of {_shown(source)}", source, offline)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(ADDED))
    if missing:
        raise WeightsError(
            f"{_shown(source)} holds the weights of another network: missing: {', '.join(missing[:3])} and others",
        )
    tensors = {
        key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    digest = tensors_digest(tensors)
    return Weights(tensors, f"{_shown(source)} sha256:{digest}", _shown(source), digest)


@contextlib.contextmanager
def _quiet(transformers: Any, local: bool) -> Iterator[None]:
    """Let the library print nothing where nothing goes wrong; a bar of a download it may show."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    if local:
        log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if local and bars:
            log.enable_progress_bar()


def read(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a network."""
    return list(network(images).feature_maps)


def _outline(name: str, transformers: Any, config: Mapping[str, Any]) -> Any:
    """The taps: the ends of all stages, or of those that the configuration names if all have one stride."""
    chosen = config.get("out_features")
    with torch.device("meta"):
        settings = _settings(transformers, config)
        stages = [stage for stage in getattr(settings, "stage_names", ()) if stage != "stem"]
        network: Any = _create(transformers, {**config, "out_features": stages, "out_indices": None})
    taps, sees_all = find_taps(name, list(network.out_features), lambda images: read(network, images))
    if len(taps) > 1 and taps[0].stride == taps[-1].stride:
        taps = tuple(tap for tap in taps if tap.name in (chosen or ())) or taps[-1:]
    return taps, sees_all


def _create(transformers: Any, config: Mapping[str, Any]) -> nn.Module:
    try:
        settings = _settings(transformers, config)
        network: nn.Module = transformers.AutoBackbone.from_config(settings, trust_remote_code=False)
    except UsageError:
        raise
    except Exception as error:
        kind = config.get("model_type")
        raise UsageError(
            f"transformers cannot build a network {kind!r} for features: {one_line(error)}"
        ) from error
    return network.eval()


def _settings(transformers: Any, config: Mapping[str, Any]) -> Any:
    """The library's own object for a configuration."""
    depths = [value for key, value in config.items() if "layers" in key or "depth" in key]
    deepest = max((value for value in tree_leaves(depths) if isinstance(value, int)), default=0)
    if deepest > LARGEST_DEPTH:
        raise UsageError(f"expected at most {LARGEST_DEPTH} layers, got {deepest}")
    values = _form_of(config)
    kind = values.pop("model_type", None)
    if type(kind) is not str or kind in OF_OTHERS or values.get("use_timm_backbone"):
        raise UsageError(f"expected a network of transformers, got {kind!r}", hint="use timm:NAME for one of timm")
    try:
        return transformers.AutoConfig.for_model(kind, **values)
    except Exception as error:
        raise UsageError(f"transformers knows no network {kind!r} of this form: {one_line(error)}") from error


def _description(name: str, offline: bool) -> dict[str, Any]:
    """The configuration of a folder or name of the Hub, its means and deviations (ImageNet's if it has none)."""
    transformers, source = import_library("transformers", "hf"), name.removeprefix(PREFIX)
    config = _read(
        lambda local: transformers.AutoConfig.from_pretrained(
            source, local_files_only=local, trust_remote_code=False
        ),
        f"the settings of {_shown(source)}",
        source,
        offline,
    ).to_dict()
    images = transformers.image_processing_base.ImageProcessingMixin
    try:
        found, _ = images.get_image_processor_dict(source, local_files_only=offline or Path(source).is_dir())
    except Exception:  # it has none
        found = {}
    mean, std = found.get("image_mean") or IMAGENET_MEAN, found.get("image_std") or IMAGENET_STD
    if found.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    return {"config": _form_of(config), "mean": list(mean), "std": list(std)}


def _form_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration without what says nothing of the form of the network, or would name other code."""
    without = json.loads(json.dumps({key: value for key, value in config.items() if key not in LEFT_OUT}))

    def cleaned(value: Any) -> Any:
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {key: cleaned(item) for key, item in value.items() if not key.endswith(IMPLEMENTATIONS)}

    return cast(dict[str, Any], cleaned(without))


def _read(fetch: Callable[[bool], Any], what: str, source: str, offline: bool) -> Any:
    """Read something of a folder, or of the Hub."""
    hint = "give hf:FOLDER with config.json and model.safetensors"
    if not Path(source).is_dir() and not Path(source).is_absolute():
        return from_hub(fetch, what, hint, offline=offline)
    try:
        return fetch(True)
    except Exception as error:  # the library raises many kinds
        raise WeightsError(f"{what} cannot be read: {one_line(error)}", hint) from error


def _shown(source: str) -> str:
    """A folder by its own name, a name of the Hub as it is: no paths get into model files."""
    path = Path(source)
    return f"folder {path.name}" if path.is_dir() or path.is_absolute() else f"hub {source}"
