"""Save and load a model as one self-describing file.

A model file is a safetensors file (`fullyconv.tensor_file`) with the tensors `encoder.*` and `decoder.*` and
one metadata entry, `fullyconv`: canonical JSON of `FCN.description`, the format version and a digest. It holds no
times, paths or host names, so equal models give equal bytes, and it needs neither the data nor any pretrained
weights to load. Loading never guesses: whatever is not exactly what the description says is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullyconv.class_table import ClassTable
from fullyconv.errors import DataError, FullyConvError, ModelFileError
from fullyconv.images import show_path
from fullyconv.model import FCN
from fullyconv.tensor_file import canonical_json, read_tensor_file, write_tensor_file

__all__ = ["FORMAT_VERSION", "load_model", "read_description", "save_model"]

FORMAT_VERSION = 1
"""Raised when an older fullyconv could not read a new file. Files of every version stay readable."""

_KIND = "fullyconv"
_MAX_LIST = 64
"""Entries of a list in the description, such as scales: each makes layers before any shape is compared."""

_PARTS: dict[str, Any] = {
    "encoder": dict,
    "decoder": dict,
    "class_table": dict,
    "size_policy": str,
    "stride_grid": int,
    "output_stride": int,
    "training": dict,
}
_ENCODER: dict[str, Any] = {
    "name": str,
    "strides": list[int],
    "scales": list[float],
    "input_convention": dict,
    "receptive_fields": list[int],
    "weights_source": str,
    "weights_licence": str,
    "digest": str,
}


def save_model(model: FCN, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a model file, whole or not at all.

    Args:
        model: Any model; it is not changed.
        path: Where to, in an existing folder; usually `*.safetensors`.
        overwrite: Whether a file that is there already is replaced.

    Raises:
        ModelFileError: Weights that are not finite or not float32, or a disk that does not take the file.
        UsageError: There is a file already and `overwrite` is False.
    """
    tensors = _tensors(model)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ModelFileError(
                f"a model file holds float32 weights, but {name} is {_described(tensor)}",
                hint="rounded weights cannot be saved as if they were exact: load the model anew",
            )
        _check_finite(name, tensor, "the model")
    write_tensor_file(path, _KIND, FORMAT_VERSION, model.description(), tensors, overwrite=overwrite)


def load_model(path: str | Path) -> FCN:
    """Read a model file.

    Args:
        path: What `save_model` wrote.

    Returns:
        The model on the CPU in eval mode, equal to the saved one in every bit.

    Raises:
        ModelFileError: The file is not a model file, is damaged, of a newer version, or contradicts itself.
    """
    description, tensors = _read(path)
    where = show_path(path)
    try:
        with torch.random.fork_rng(devices=[]):  # Fresh layers draw initial weights that nobody needs.
            with torch.device("meta"):
                # Nothing is allocated until the file has proved to hold tensors of these sizes.
                _compare(_tensors(FCN.from_description(description)), tensors, where)
            model = FCN.from_description(description)
    except ModelFileError:
        raise
    except FullyConvError as error:
        raise ModelFileError(f"{where} describes no model of this fullyconv: {error.message}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = show_path(str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
        raise ModelFileError(f"{where} describes no model of this fullyconv: {reason}") from None
    _fill(model, tensors)
    _check_facts(description, model.description(), where)
    return model.eval()


def read_description(path: str | Path) -> dict[str, Any]:
    """Read what a model file says about its model, without building it.

    Args:
        path: What `save_model` wrote.

    Returns:
        `FCN.description` with `format_version` and `digest`. The digest of the whole file has been checked.

    Raises:
        ModelFileError: The file is not a model file, is damaged, or of a newer version.
    """
    return _read(path)[0]


def _tensors(model: FCN) -> dict[str, Tensor]:
    """All weights and statistics by their names in the file."""
    parts = {"encoder": model.encoder.network, "decoder": model.decoder}
    return {
        f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()
    }


def _fill(model: FCN, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model, whose memory is aligned as in any other model: the same bits come out."""
    for part, module in {"encoder": model.encoder.network, "decoder": model.decoder}.items():
        prefix = f"{part}."
        module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file whose description has the right form; whether it fits the tensors is not known yet."""
    description, tensors = read_tensor_file(path, _KIND, FORMAT_VERSION)
    where = show_path(path)
    _check_form(description, {**_PARTS, "format_version": int, "digest": str}, where)
    encoder, decoder = description["encoder"], description["decoder"]
    # An autoencoder's encoder has many forms under one name, and says which.
    form = _ENCODER | {name: dict for name in ("architecture", "image_form") if name in encoder}
    _check_form(encoder, form, f"{where}: encoder")
    if "image_form" in encoder:
        image_form = dict(encoder["image_form"])
        span = image_form.pop("value_range", None)
        _check_form(image_form, {"channels": int}, f"{where}: image form")
        if span is not None:
            _check_form({"value_range": span}, {"value_range": list[float]}, f"{where}: image form")
    _check_form({"name": decoder.get("name")}, {"name": str}, f"{where}: decoder")
    for name, value in [*encoder.items(), *decoder.items()]:
        if isinstance(value, list) and len(value) > _MAX_LIST:
            raise ModelFileError(f"{where}: expected at most {_MAX_LIST} {_shown(name)}, got {len(value)}")
    try:
        ClassTable.from_json(description["class_table"])
    except DataError as error:
        raise ModelFileError(f"{where}: {_shown(error.message)}") from None
    return description, tensors


def _check_form(values: Mapping[str, Any], form: Mapping[str, Any], where: str) -> None:
    """Check that a JSON object has exactly the entries of a form, with values of its types."""
    if set(values) != set(form):
        missing, unknown = sorted(set(form) - set(values)), sorted(set(values) - set(form))
        raise ModelFileError(f"{where}: entries missing: {_shown(missing)}, unknown: {_shown(unknown)}")
    for name, kind in form.items():
        value = values[name]
        if kind in (list[int], list[float]):
            fits = type(value) is list and all(type(item) is kind.__args__[0] for item in value)
        else:
            fits = type(value) is kind  # A bool is an int, but not here.
        if not fits:
            raise ModelFileError(f"{where}: expected {name} to be {_words(kind)}, got {_shown(value)}")


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are missing, unknown, or of another shape or dtype than the described model's."""
    for word, names in (
        ("lacks", expected.keys() - found.keys()),
        ("has unknown", found.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelFileError(f"{where} {word} tensor {show_path(min(names))}{more}")
    for name, tensor in sorted(found.items()):
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ModelFileError(f"{where}: expected {name} to be {_described(wanted)}, got {_described(tensor)}")
        _check_finite(name, tensor, where)


def _check_finite(name: str, tensor: Tensor, where: str) -> None:
    # The extremes are NaN where any value is, and need no copy of the tensor.
    if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, tensor.aminmax())):
        raise ModelFileError(f"{where}: {name} has values that are not finite", hint="the training has diverged")


def _check_facts(described: Mapping[str, Any], built: Mapping[str, Any], where: str) -> None:
    """Refuse a model whose code would compute something else today than when the file was written."""
    encoder = ("strides", "scales", "input_convention", "digest")
    pairs = [(name, described["encoder"][name], built["encoder"][name]) for name in encoder]
    pairs.append(("image_form", *(facts["encoder"].get("image_form") for facts in (described, built))))
    pairs += [(name, described[name], built[name]) for name in ("size_policy", "stride_grid", "output_stride")]
    for name, said, is_now in pairs:
        if canonical_json(said) != canonical_json(is_now):
            raise ModelFileError(f"{where}: expected {name} {_shown(is_now)}, it describes {_shown(said)}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {' x '.join(map(str, tensor.shape)) or 'scalar'}"


def _words(kind: Any) -> str:
    return str(kind) if kind in (list[int], list[float]) else str(kind.__name__)


def _shown(value: Any) -> str:
    """A value of unknown origin on one short line."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 200 else text[:200] + "..."
