"""What is wrong with a data set, found before the first epoch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.shapes import Size

__all__ = ["DataSummary", "check_dataset"]


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What a data set holds."""

    class_names: tuple[str, ...]
    pixel_counts: npt.NDArray[np.int64]
    image_counts: npt.NDArray[np.int64]
    ignored_pixels: int
    sizes: tuple[Size, ...]

    def lines(self) -> list[str]:
        """A short table."""
        return [f"{n}: {c}" for n, c in zip(self.class_names, self.pixel_counts.tolist(), strict=True)]


def check_dataset(dataset: Dataset) -> DataSummary:
    """Read every mask and image header once."""
    classes = dataset.class_table.num_classes
    pixels = np.zeros(classes, dtype=np.int64)
    images = np.zeros(classes, dtype=np.int64)
    ignored = 0
    sizes: list[Size] = []
    for sample in dataset:
        target = dataset.read_target(sample)
        counts = np.bincount(target.ravel(), minlength=256)
        pixels += counts[:classes]
        images += counts[:classes] > 0
        ignored += int(counts[IGNORE_INDEX])
        sizes.append((target.shape[0], target.shape[1]))
    if pixels.sum() == 0:
        raise DataError(f"{dataset.root}: all pixels are ignored")
    if (pixels > 0).sum() == 1:
        raise DataError(f"{dataset.root}: one class only")
    return DataSummary(dataset.class_table.names, pixels, images, ignored, tuple(sizes))
