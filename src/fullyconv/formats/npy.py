"""Arrays of images and masks: images_training.npy and seg_training.npy, as the lecture has them.

Images are [N, H, W, 3], floats 0..1 or uint8. Masks are [N, H, W, C] one-hot, where the channel is the class, or
[N, H, W] class values. A testing array may have no masks: it is for `fullyconv predict`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fullyconv.array_file import ARRAY_SUFFIX, image_items, mask_channels, open_images, open_masks
from fullyconv.class_table import ClassEntry, ClassTable, default_color
from fullyconv.errors import DataError
from fullyconv.formats.labels import write_classes
from fullyconv.formats.written import Labelled, masked_values
from fullyconv.images import read_image, show_path
from fullyconv.layout import SPLIT_NAMES, SPLIT_ORDER, KnownClasses, Layout, Sample, entries, ordered
from fullyconv.shapes import Image, Mask

__all__ = ["array_classes", "describe_images", "find_npy", "pair_items", "read_npy", "write_npy"]

_IMAGES, _MASKS = "images", "seg"
_WRITTEN = {"train": "training", "val": "validation", "test": "testing"}


def find_npy(root: Path) -> Path | None:
    """The first `images_SPLIT.npy` or `seg_SPLIT.npy` of a folder; None if it has none."""
    return next((path for parts in _arrays(root).values() for path in parts.values()), None)


def read_npy(root: Path) -> Layout:
    """Pair the items of `images_training.npy` with those of `seg_training.npy`; validation and testing likewise.

    Raises:
        DataError: An array is missing, or the two do not fit each other.
    """
    layout = Layout()
    arrays = _arrays(root)
    samples: list[Sample] = []
    used: list[tuple[Path, Path]] = []
    for split, parts in arrays.items():
        images, masks = parts.get(_IMAGES), parts.get(_MASKS)
        if images is not None and masks is not None:
            samples += pair_items(images, masks, split)
            used.append((images, masks))
        elif images is not None and split == "test":
            layout.notes.append(f"{images.name} has no masks: predict its {len(open_images(images))} images.")
        else:
            ((kind, there),) = parts.items()
            name = f"{_MASKS if kind == _IMAGES else _IMAGES}_{there.stem.partition('_')[2]}{ARRAY_SUFFIX}"
            raise DataError(
                f"{show_path(there)}: expected {name} beside it, got nothing there", hint=f"add {name}"
            )
    if not used:
        raise DataError(
            f"{show_path(root)}: expected arrays with masks, got images alone",
            hint="add seg_training.npy, [N, H, W, C] one-hot or [N, H, W] class values",
        )
    layout.samples = ordered(samples)
    layout.description = ", ".join(f"{images.name} + {masks.name}" for images, masks in used)
    layout.classes = array_classes([masks for _, masks in used])
    layout.notes = [*describe_images([images for images, _ in used]), *layout.notes]
    taken = {path for parts in arrays.values() for path in parts.values()}
    others = [path for path in entries(root) if path.suffix.lower() == ARRAY_SUFFIX and path not in taken]
    layout.skipped.update(ARRAY_SUFFIX for _ in others)
    return layout


def _arrays(root: Path) -> dict[str, dict[str, Path]]:
    """Arrays of images and masks by split and kind."""
    found: dict[str, dict[str, Path]] = {}
    for path in entries(root):
        kind, _, name = path.stem.casefold().partition("_")
        split = SPLIT_NAMES.get(name)
        if path.suffix.lower() != ARRAY_SUFFIX or kind not in (_IMAGES, _MASKS) or split is None:
            continue
        there = found.setdefault(split, {}).setdefault(kind, path)
        if there != path:
            raise DataError(
                f"{show_path(root)}: expected one array of {split} {kind}, got both {there.name} and {path.name}",
                hint="rename or remove one of them",
            )
    return {split: found[split] for split in SPLIT_ORDER if split in found}


def pair_items(images: Path, masks: Path, split: str | None, prefix: str = "") -> list[Sample]:
    """Pair the items of two arrays by their place.

    Args:
        images: An array of images.
        masks: An array of as many masks of the same size.
        split: What the samples belong to.
        prefix: What their ids begin with; by default the stem of the array of images.

    Raises:
        DataError: One is no such array, or they differ in number or size.
    """
    shape, expected = open_masks(masks).shape, open_images(images).shape
    if shape[:3] != expected[:3]:
        raise DataError(
            f"{show_path(masks)}: expected {list(expected[:3])} masks (number, height, width) as in "
            f"{show_path(images.name)}, got {list(shape)}",
            hint="item i of one belongs to item i of the other",
        )
    name = prefix or images.stem
    return [Sample(f"{name}/{path.name}", path, masks / path.name, split) for path in image_items(images)]


def write_npy(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write RGB images and masks of class indices as arrays, two a split, and classes.txt.

    Data without splits are all training. All is held in memory.

    Raises:
        DataError: The images of a split differ in size.
    """
    values = dict(enumerate(range(table.num_classes)))
    written: dict[str, list[tuple[Image, Mask]]] = {}
    paths: list[Path] = []
    for sample, target in items:
        split = _WRITTEN[sample.split or "train"]
        there = written.setdefault(split, [])
        image = read_image(sample.image)
        if there and there[0][0].shape != image.shape:
            (height, width), (rows, columns) = there[0][0].shape[:2], image.shape[:2]
            raise DataError(
                f"{show_path(sample.image)}: expected {height} x {width} pixels as others of its array have, got "
                f"{rows} x {columns}",
                hint="convert to a format with a file for each image",
            )
        paths.append(folder / f"{_IMAGES}_{split}{ARRAY_SUFFIX}" / str(len(there)))
        there.append((image, masked_values(target, values)))
    for split, pairs in written.items():
        for kind, arrays in zip((_IMAGES, _MASKS), zip(*pairs, strict=True), strict=True):
            np.save(folder / f"{kind}_{split}{ARRAY_SUFFIX}", np.stack(arrays), allow_pickle=False)
    write_classes(folder, table, values)
    return paths


def array_classes(masks: Iterable[Path]) -> KnownClasses | None:
    """The classes of one-hot masks, one a channel; None if the arrays hold class values.

    Two channels are background and foreground, which is green, as in the lecture.

    Raises:
        DataError: The arrays have different numbers of channels.
    """
    channels = {path: mask_channels(path) for path in masks}
    first, *others = channels
    for path in others:
        if channels[path] != channels[first]:
            raise DataError(
                f"{show_path(path)}: expected masks like those of {show_path(first.name)}, "
                f"{_kind(channels[first])}, got {_kind(channels[path])}",
                hint="save all masks in the same way",
            )
    count = channels[first]
    if count is None:
        return None
    classes = [ClassEntry(f"class {i}", i, default_color(i)) for i in range(count)]
    if count == 2:
        classes = [ClassEntry("background", 0, (0, 0, 0)), ClassEntry("foreground", 1, (0, 255, 0))]
    return KnownClasses(tuple(classes), f"the channels of {show_path(first.name)}")


def _kind(channels: int | None) -> str:
    return "class values" if channels is None else f"one-hot with {channels} channels"


def describe_images(images: Iterable[Path]) -> list[str]:
    """What happens to floats, in a sentence where there are some."""
    floats = [path.name for path in images if open_images(path).dtype.kind == "f"]
    if not floats:
        return []
    return [
        f"{' and '.join(map(show_path, floats))}: floats 0..1 become 8 bits, times 255 and rounded: "
        "exact for images that came from 8 bits, else to 1/510."
    ]
