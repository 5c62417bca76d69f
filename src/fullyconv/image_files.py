"""Find images among files, folders, globs and URLs, and give each a name for what is made of it."""

import itertools
from collections.abc import Sequence
from glob import glob
from pathlib import Path, PurePath, PurePosixPath
from typing import cast

from fullyconv.array_file import ARRAY_SUFFIX, image_items
from fullyconv.errors import UsageError
from fullyconv.folders import file_system, is_url
from fullyconv.images import IMAGE_SUFFIXES
from fullyconv.lecture import FIGURES

__all__ = ["find_images", "find_places"]


Place = Path | str
"""Of an image: its path, or its URL."""


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
    return cast(dict[str, Path], _unique_names([pair for item in inputs for pair in _found(item, _on_disk(item))]))


def find_places(inputs: Sequence[str | Path]) -> dict[str, str]:
    """Find images as `find_images` does, and those at URLs: of files, of folders, and globs.

    Returns:
        For each image the name of its outputs, and its absolute path or its URL.
    """
    found = [
        pair for item in inputs for pair in _found(item, _in_store(str(item)) if is_url(item) else _on_disk(item))
    ]
    return {
        name: place if isinstance(place, str) else str(place.absolute())
        for name, place in _unique_names(found).items()
    }


def _found(item: str | Path, images: Sequence[tuple[PurePath, Place]]) -> list[tuple[str, Place]]:
    """Leave the suffixes of names out, and refuse an input that matches nothing."""
    if not images:
        raise UsageError(f"no image found at {item}", hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [(name.with_suffix("").as_posix(), place) for name, place in images]


def _on_disk(item: str | Path) -> list[tuple[PurePath, Place]]:
    """The images of a file, folder, array or glob, and their names within it."""
    path = Path(item)
    if path.is_dir():
        return [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if _is_image(file)]
    if path.suffix.lower() == ARRAY_SUFFIX and path.exists():
        items = image_items(path)
        digits = len(str(len(items) - 1))
        return [(Path(path.stem, file.name.zfill(digits)), file) for file in items]
    if path.exists():
        return [(Path(path.name), path)]
    return [
        (Path(Path(name).name), Path(name))
        for name in sorted(glob(str(item), recursive=True))  # noqa: PTH207 - absolute patterns, too
        if _is_image(Path(name))
    ]


def _in_store(url: str) -> list[tuple[PurePath, Place]]:
    """The images at a URL, and their names within it."""
    system, path = file_system(url)
    if system.isdir(path):
        root = PurePosixPath(path.rstrip("/"))
        named = [(PurePosixPath(file).relative_to(root), file) for file in sorted(system.find(path))]
    else:
        files = sorted(system.glob(path)) if set(path) & set("*?[") else [path] if system.exists(path) else []
        named = [(PurePosixPath(PurePosixPath(file).name), file) for file in files]
    return [
        (name, str(system.unstrip_protocol(file)))
        for name, file in named
        if name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")
    ]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _unique_names(found: Sequence[tuple[str, Place]]) -> dict[str, Place]:
    """Give each file a name of its own: its stem, then with its suffix, then with a number."""
    named: dict[str, Place] = {}
    taken: set[str] = set()
    seen: set[Place] = set()
    for name, path in found:
        itself = path if isinstance(path, str) else path.resolve()
        if itself in seen:
            continue
        seen.add(itself)
        candidates = itertools.chain(
            [name, f"{name}_{PurePosixPath(path).suffix[1:].lower()}"],
            (f"{name}_{number}" for number in itertools.count(2)),
        )
        # Folded, since the folder may be on a disk that does not tell A.png from a.png.
        name = next(name for name in candidates if not _outputs(name) & taken)
        taken |= _outputs(name)
        named[name] = path
    return named


def _outputs(name: str) -> set[str]:
    endings = ("", "_overlay", "_probabilities", "_confidence", "_margin", *FIGURES)
    return {f"{name}{ending}".casefold() for ending in endings}
