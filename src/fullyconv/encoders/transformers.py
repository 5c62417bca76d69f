"""Networks of transformers, `hf:NAME`: any of which `AutoBackbone` gives features (extra `hf`).

`hf:FOLDER` is a folder with `config.json` and, for its weights, safetensors; `hf:facebook/dinov2-small` one of the
Hugging Face Hub. Only code of the installed library is run, whatever a folder brings.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.encoder import tensors_digest
from fullyconv.encoders.adapters import (
    AdaptedNetwork,
    convention_of,
    find_taps,
    import_library,
    is_offline,
    one_line,
    seeded,
)
from fullyconv.errors import DownloadError, UsageError, WeightsError, show_path
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

OF_OTHERS = ("timm_backbone", "timm_wrapper")
"""Kinds that stand for networks of another library."""

ADDED = "hidden_states_norms."
"""What the library adds to networks of stages for features: layer norms, which begin with gain 1 and shift 0."""


def open_network(name: str) -> AdaptedNetwork:
    """Build a network of transformers with random weights, the same every time.

    Args:
        name: "hf:" and a folder, or a name of the Hugging Face Hub.

    Raises:
        UsageError: transformers is not installed, there is no such folder or network, or it cannot be an encoder.
        DownloadError: Its configuration cannot be downloaded.
    """
    config, mean, std = _description(name, is_offline())
    return rebuild(name, {"config": config, "mean": mean, "std": std})


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
    offline = is_offline(offline)
    config = _settings(transformers, open_network(name).architecture["config"])  # type: ignore[index]
    kind = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]
    local = Path(source).is_dir()
    try:
        with _quiet(transformers, local):
            network, found = kind.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=offline or local,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # the library raises many kinds
        raise _failed(f"the weights of {_shown(source)}", error, offline, source) from error
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
        stages = [stage for stage in settings.stage_names if stage != "stem"]
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
    values = json.loads(json.dumps({key: value for key, value in config.items() if key not in LEFT_OUT}))
    kind = values.pop("model_type", None)
    if type(kind) is not str or kind in OF_OTHERS or values.get("use_timm_backbone"):
        raise UsageError(f"expected a network of transformers, got {kind!r}", hint="use timm:NAME for one of timm")
    try:
        return transformers.AutoConfig.for_model(kind, **values)
    except Exception as error:
        raise UsageError(f"transformers knows no network {kind!r} of this form: {one_line(error)}") from error


def _description(name: str, offline: bool) -> tuple[dict[str, Any], list[float], list[float]]:
    """The configuration of a folder or name of the Hub, its means and deviations (ImageNet's if it has none)."""
    transformers, source = import_library("transformers", "hf"), name.removeprefix(PREFIX)
    folder = Path(source)
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise UsageError(f"there is no config.json in {show_path(source)}")
    options = {"local_files_only": offline or local, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options).to_dict()
    except Exception as error:
        raise _failed(f"the configuration of {_shown(source)}", error, offline, source) from error
    try:
        images, _ = transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(
            source, local_files_only=options["local_files_only"]
        )
    except Exception:  # it has none
        images = {}
    config = {key: value for key, value in config.items() if key not in LEFT_OUT}
    mean, std = images.get("image_mean") or IMAGENET_MEAN, images.get("image_std") or IMAGENET_STD
    if images.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    return json.loads(json.dumps(config)), list(mean), list(std)


def _shown(source: str) -> str:
    """A folder by its own name, a name of the Hub as it is: no paths get into model files."""
    path = Path(source)
    return f"folder {path.name}" if path.is_dir() or path.is_absolute() else f"hub {source}"


def _failed(what: str, error: Exception, offline: bool, source: str) -> Exception:
    """What to raise where something could not be read or downloaded."""
    hint = "give hf:FOLDER with config.json and model.safetensors"
    if Path(source).is_dir() or Path(source).is_absolute():
        return WeightsError(f"{what} cannot be read: {one_line(error)}", hint)
    if offline:
        return WeightsError(f"{what} are not on this machine, and offline nothing is downloaded", hint)
    return DownloadError(f"{what} cannot be downloaded: {one_line(error)}", hint)
