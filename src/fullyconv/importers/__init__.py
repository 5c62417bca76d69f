"""Weights that others published, turned into model files: one file a source."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fullyconv.errors import WeightsError, show_path
from fullyconv.importers import caffe, pytorch_fcn, torchvision
from fullyconv.importers.encoders import ImportedEncoder, find_encoder
from fullyconv.model import FCN
from fullyconv.weights import CHECKPOINT_SUFFIXES, Weights, load_weights

__all__ = ["SOURCES", "import_encoder", "import_model"]

SOURCES: Mapping[str, tuple[Callable[[Weights], bool], Callable[[Weights, bool | None], FCN]]] = {
    "Caffe": (caffe.is_ours, caffe.build),
    "torchvision": (torchvision.is_ours, torchvision.build),
    "pytorch-fcn": (pytorch_fcn.is_ours, pytorch_fcn.build),
}
"""By name: what tells weights of this source apart by their keys, and what makes a model of them."""

SUFFIXES = (*CHECKPOINT_SUFFIXES, caffe.SUFFIX)


def import_model(path: str | Path, *, at_once: bool | None = None) -> FCN:
    """Make a model of weights that others published; which source they are of, their keys say.

    Args:
        path: A `.pth`, `.pt`, `.pth.tar`, `.safetensors` or `.caffemodel` file. Nothing in it is run.
        at_once: Whether an FCN-8s was trained at once: its pool4 and pool3 are scaled then. By default what the
            file or its name says.

    Returns:
        The model with the input convention and the classes that belong to it, in eval mode.

    Raises:
        WeightsError: The file is missing or damaged, of no source that is known, or lacks tensors or has others.
        UsageError: `at_once` for another network.
    """
    weights = _read(Path(path))
    for is_ours, build in SOURCES.values():
        if is_ours(weights):
            return build(weights, at_once).eval()
    first = ", ".join(sorted(weights.tensors)[:3])
    raise WeightsError(
        f"{weights.file} holds no weights of a whole network that is known here, its tensors begin with {first}",
        hint=f"known are those of {', '.join(SOURCES)}; weights of an encoder alone are for --encoder-weights",
    )


def import_encoder(path: str | Path) -> ImportedEncoder | None:
    """Find the encoder whose weights somebody published, alone or in a model of segmentation_models.pytorch.

    Args:
        path: As for `import_model`.

    Returns:
        Its name, and its tensors as `--encoder-weights` reads them; None where it is no encoder's that is known.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    weights = _read(Path(path))
    return None if any(is_ours(weights) for is_ours, _ in SOURCES.values()) else find_encoder(weights)


def _read(path: Path) -> Weights:
    """Read the tensors of a file."""
    if not path.name.endswith(SUFFIXES) or not path.is_file():
        what = "a file of another kind" if path.is_file() else "nothing there"
        raise WeightsError(f"{show_path(path)}: expected a {', '.join(SUFFIXES)} file, got {what}")
    return caffe.read(path) if path.suffix == caffe.SUFFIX else load_weights(path, checkpoints=True)
