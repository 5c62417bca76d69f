"""Find images among files, folders and globs, and give each a name for what is made of it."""

import itertools
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from fullyconv.array_file import ARRAY_SUFFIX, image_items
from fullyconv.errors import UsageError
from fullyconv.images import IMAGE_SUFFIXES
from fullyconv.lecture import FIGURES

__all__ = ["find_images"]


def find_images(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Find images among files, folders and globs.

    Args:
        inputs: Files are taken as they are, of `.npy` arrays each image; of folders (with their subfolders) and
            globs the images.

    Returns:
        For each image the name of its outputs: its path within the folder that was given, without suffix, made
        unique where two would collide.

    Raises:
        UsageError: An input that matches nothing, or no image in a folder.
        DataError: A `.npy` file that is no array of images.
    """
    found: list[tuple[str, Path]] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            images = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if _is_image(file)]
        elif path.suffix.lower() == ARRAY_SUFFIX and path.exists():
            items = image_items(path)
            digits = len(str(len(items) - 1))
            images = [(Path(path.stem, file.name.zfill(digits)), file) for file in items]
        elif path.exists():
            images = [(Path(path.name), path)]
        else:
            images = [
                (Path(Path(name).name), Path(name))
                for name in sorted(glob(str(item), recursive=True))  # noqa: PTH207 - absolute patterns, too
                if _is_image(Path(name))
            ]
        if not images:
            raise UsageError(
                f"no image found at {item}", hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        found += [(name.with_suffix("").as_posix(), file) for name, file in images]
    return _unique_names(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _unique_names(found: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Give each file a name of its own: its stem, then with its suffix, then with a number."""
    named: dict[str, Path] = {}
    taken: set[str] = set()
    seen: set[Path] = set()
    for name, path in found:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        candidates = itertools.chain(
            [name, f"{name}_{path.suffix[1:].lower()}"], (f"{name}_{number}" for number in itertools.count(2))
        )
        # Folded, since the folder may be on a disk that does not tell A.png from a.png.
        name = next(name for name in candidates if not _outputs(name) & taken)
        taken |= _outputs(name)
        named[name] = path
    return named


def _outputs(name: str) -> set[str]:
    endings = ("", "_overlay", "_probabilities", "_confidence", "_margin", *FIGURES)
    return {f"{name}{ending}".casefold() for ending in endings}
