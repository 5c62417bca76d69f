"""Weights that others published, turned into model files: one file a source."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fullyconv.errors import WeightsError, show_path
from fullyconv.importers import torchvision
from fullyconv.model import FCN
from fullyconv.weights import SUFFIXES, Weights, load_weights

__all__ = ["SOURCES", "import_model"]

SOURCES: Mapping[str, tuple[Callable[[Weights], bool], Callable[[Weights], FCN]]] = {
    "torchvision": (torchvision.is_ours, torchvision.build),
}
"""By name: what tells weights of this source apart by their keys, and what makes a model of them."""


def import_model(path: str | Path) -> FCN:
    """Make a model of weights that others published; which source they are of, their keys say.

    Args:
        path: A `.pth`, `.pt` or `.safetensors` file. Nothing in it is run.

    Returns:
        The model with the input convention and the classes that belong to it, in eval mode.

    Raises:
        WeightsError: The file is missing or damaged, of no source that is known, or lacks tensors or has others.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        what = "a file of another kind" if path.is_file() else "nothing there"
        raise WeightsError(f"{show_path(path)}: expected a {', '.join(SUFFIXES)} file, got {what}")
    weights = load_weights(path)
    for is_ours, build in SOURCES.values():
        if is_ours(weights):
            return build(weights).eval()
    first = ", ".join(sorted(weights.tensors)[:3])
    raise WeightsError(
        f"{weights.file} holds no weights of a whole network that is known here, its tensors begin with {first}",
        hint=f"known are those of {', '.join(SOURCES)}; weights of an encoder alone are for --encoder-weights",
    )
