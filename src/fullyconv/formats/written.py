"""What a format's writer is given, and what all of them write: images as they are, masks by value."""

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PillowImage

from fullyconv.array_file import is_item, is_rgb_item, read_stored_item
from fullyconv.class_table import IGNORE_INDEX, ClassTable, Color, default_color
from fullyconv.embedded import is_embedded, open_binary
from fullyconv.errors import DataError
from fullyconv.images import opened, read_image, show_path, write_mask
from fullyconv.layout import SPLIT_NAMES, Sample, entries, some
from fullyconv.shapes import Mask
from fullyconv.stored import is_tiff, tifffile

__all__ = [
    "Labelled",
    "copy_image",
    "distinct_colors",
    "flat_names",
    "image_suffix",
    "located",
    "masked_values",
    "write_values",
]


class Labelled(NamedTuple):
    """A sample and its target: H x W uint8 class indices, 255 = ignored."""

    sample: Sample
    target: Mask


def located(path: Path, names: Sequence[str], root: Path, split: str | None) -> list[Path]:
    """Find the images that an annotation file names: in the first folder that has the first of them.

    Args:
        path: The annotation file.
        names: Of the images, as it has them.
        root: The data folder.
        split: What the file is for.

    Raises:
        DataError: There are no names, or an image is not there.
    """
    splits = [name for name, known in SPLIT_NAMES.items() if known == split] if split else []
    places = [path.parent, *(root / "images" / name for name in splits), *(root / name for name in splits)]
    places += [entry for entry in entries(root) if entry.is_dir() and split and entry.name.startswith(split)]
    places += [root / "images", root]
    if not names:
        raise DataError(f"{show_path(path)}: expected images, got none")
    outside = [name for name in names if ".." in Path(name).parts or Path(name).is_absolute()]
    if outside:
        raise DataError(
            f"{show_path(path)}: expected names of images within the data folder, got {show_path(outside[0])}",
            hint="correct the names, and put the images beside the annotations or into images/",
        )
    place = next((place for place in places if (place / names[0]).is_file()), None)
    if place is None:
        raise DataError(
            f"{show_path(path)}: expected the image {show_path(names[0])} beside it or in images/, got none",
            hint=f"put the images into {show_path(root / 'images' / (split or ''))}",
        )
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise DataError(
            f"{show_path(path)}: {len(missing)} of {len(names)} images are not in {show_path(place)}: "
            f"{some(missing)}",
            hint="add them, or take them out of the annotations",
        )
    return [place / name for name in names]


def copy_image(image: Path, folder: Path, name: str) -> Path:
    """Copy an image byte for byte; an item of an array becomes a PNG, or a TIFF if it is no 8-bit RGB.

    Args:
        image: The image.
        folder: Where to.
        name: Without suffix; with `/` for folders in it.

    Returns:
        The file that was made.
    """
    path = folder / f"{name}{image_suffix(image)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_item(image):
        path.write_bytes(image_bytes(image))
    else:
        with open_binary(image) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    return path


def image_bytes(image: Path) -> bytes:
    """The bytes of the file that `copy_image` makes of an image."""
    if not is_item(image):
        with open_binary(image) as source:
            return source.read()
    file = io.BytesIO()
    if is_rgb_item(image):
        PillowImage.fromarray(read_image(image)).save(file, "PNG")
        return file.getvalue()
    if find_spec("tifffile") is None:
        raise DataError(
            f"{show_path(image)} becomes a TIFF, which needs tifffile", hint='pip install "fullyconv[large]"'
        )
    tifffile().imwrite(file, read_stored_item(image), photometric="minisblack", planarconfig="contig")
    return file.getvalue()


def image_suffix(image: Path) -> str:
    """The suffix of what `copy_image` makes of an image."""
    if is_item(image):
        return ".png" if is_rgb_item(image) else ".tif"
    if not is_embedded(image):
        return image.suffix
    if is_tiff(image):
        return ".tif"
    with opened(image) as file:
        kind = str(file.format).lower()
    return {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")


def write_values(
    path: Path, target: Mask, table: ClassTable, values: Mapping[int, int], ignored: int = IGNORE_INDEX
) -> None:
    """Write a target as a palette PNG in the colours of its classes.

    Args:
        path: The file to make.
        target: Class indices, 255 = ignored.
        table: The classes.
        values: The mask value of each class index.
        ignored: The mask value of pixels without a class.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = masked_values(target, values, ignored)
    write_mask(path, stored, {value: table.classes[index].color for index, value in values.items()})


def masked_values(target: Mask, values: Mapping[int, int], ignored: int = IGNORE_INDEX) -> Mask:
    """Turn class indices into mask values: H x W uint8."""
    lookup = np.full(256, ignored, np.uint8)
    for index, value in values.items():
        lookup[index] = value
    return lookup[target]


def flat_names() -> Callable[[Sample], str]:
    """Make what names samples without folders, for formats that have one: `line2/a 1` is `line2_a_1`.

    Returns:
        A function from a sample to its name. It raises `DataError` where two samples would have the same.
    """
    taken: dict[str, Sample] = {}

    def name_of(sample: Sample) -> str:
        name = "_".join(sample.id.replace("/", " ").split())
        other = taken.setdefault(name.casefold(), sample)
        if other is not sample:
            raise DataError(
                f"{show_path(sample.image)}: expected a name of its own in a format with one folder, got that of "
                f"{show_path(other.image)}",
                hint="rename one of them, or convert to another format",
            )
        return name

    return name_of


def distinct_colors(table: ClassTable, others: Sequence[Color] = ()) -> dict[int, Color]:
    """The colour of each class index, for masks in which colours count: the table's where all differ.

    Args:
        table: The classes.
        others: Colours that no class may have.
    """
    found = {index: entry.color for index, entry in enumerate(table.classes)}
    if len({*found.values(), *others}) == len(found) + len(set(others)):
        return found
    free = (color for number in range(512) if (color := default_color(number)) not in others)
    return dict(zip(found, dict.fromkeys(free), strict=False))
