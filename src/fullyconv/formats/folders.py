"""The usual layout, written: images/SPLIT/, masks/SPLIT/ and classes.txt. `fullyconv.layout` reads it."""

from collections.abc import Iterable
from pathlib import Path

from fullyconv.class_table import ClassTable
from fullyconv.formats.labels import write_classes
from fullyconv.formats.written import Labelled, copy_image, write_values

__all__ = ["write_folders"]


def write_folders(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write each image, its mask beside it, and the classes.

    Mask values are those of the table; of a table of 0-and-255 masks 0 and 1, so that 255 means ignored.
    """
    values = dict(enumerate(table.values if table.encoding != "binary" else range(table.num_classes)))
    images = []
    for sample, target in items:
        images.append(copy_image(sample.image, folder / "images" / (sample.split or ""), sample.id))
        write_values(folder / "masks" / (sample.split or "") / f"{sample.id}.png", target, table, values)
    write_classes(folder, table, values)
    return images
