"""What a data set holds and what is wrong with it, found before the first epoch."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import DataError
from fullyconv.images import show_path
from fullyconv.shapes import Size

__all__ = ["DataSummary", "check_dataset", "refuse_unlabelled", "summarise"]


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What a data set holds; C classes, N samples.

    Attributes:
        class_names: The classes, by index.
        pixel_counts: C, int64: pixels of each class.
        image_counts: C, int64: images in which each class occurs.
        ignored_pixels: Pixels without a class.
        unlabelled_images: Images all of whose pixels are ignored.
        sizes: N sizes (height, width), in the order of the samples.
    """

    class_names: tuple[str, ...]
    pixel_counts: npt.NDArray[np.int64]
    image_counts: npt.NDArray[np.int64]
    ignored_pixels: int
    unlabelled_images: int
    sizes: tuple[Size, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """The names of classes that never occur."""
        return tuple(n for n, count in zip(self.class_names, self.pixel_counts, strict=True) if not count)

    def lines(self) -> list[str]:
        """The summary as a short table, a line an entry."""
        labelled = int(self.pixel_counts.sum())
        share = self.ignored_pixels / max(labelled + self.ignored_pixels, 1)
        ignored = f"{share:.2%} of the pixels" if self.ignored_pixels else "nothing"
        lines = [f"{len(self.sizes)} images of {self._size_text()}; {ignored} ignored"]
        width = max(len("class"), *(len(name) for name in self.class_names))
        lines.append(f"{'class':<{width}} {'pixels':>15} {'share':>8} {'images':>7}")
        for name, pixels, images in zip(self.class_names, self.pixel_counts, self.image_counts, strict=True):
            lines.append(f"{name:<{width}} {pixels:>15,} {pixels / max(labelled, 1):>8.2%} {images:>7}")
        if self.unlabelled_images:
            lines.append(f"{self.unlabelled_images} of the images have no labelled pixel")
        if self.absent:
            lines.append(f"never seen: {', '.join(self.absent)}")
        return lines

    def _size_text(self) -> str:
        sizes = Counter(self.sizes)
        if len(sizes) == 1:
            height, width = self.sizes[0]
            return f"{height} x {width} pixels (height x width)"
        heights, widths = zip(*sizes, strict=True)
        return (
            f"{len(sizes)} sizes, {min(heights)} to {max(heights)} pixels high and "
            f"{min(widths)} to {max(widths)} wide"
        )


def check_dataset(dataset: Dataset) -> DataSummary:
    """Read all images and masks once and count; whatever cannot be trained on is refused by name.

    Images are decoded to see that they can be; masks are decoded to class indices and compared with their
    image's size. A data set for training, or one without splits, needs two classes that occur; one for
    validation or test needs a labelled pixel.

    Args:
        dataset: One split: `dataset.split("train")`.

    Raises:
        DataError: A file cannot be read, a mask differs in size from its image or holds a value that is no
            class, all pixels are ignored, or only one class occurs. Names the first such file in the order of
            the samples.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        checked = list(pool.map(lambda sample: _check_sample(dataset, sample), dataset))
    if not checked:
        raise DataError(f"{show_path(dataset.root)}: expected samples, got none")
    counts = np.stack([counts for counts, _ in checked])
    summary = summarise(dataset.class_table, counts, [size for _, size in checked])
    refuse_unlabelled(summary, dataset)
    return summary


def summarise(table: ClassTable, counts: npt.NDArray[np.int64], sizes: Sequence[Size]) -> DataSummary:
    """Sum up what the targets of N images hold.

    Args:
        table: The classes.
        counts: N x 256, int64: pixels of each index in each target.
        sizes: N sizes (height, width).
    """
    labelled = counts[:, : table.num_classes]
    return DataSummary(
        class_names=table.names,
        pixel_counts=labelled.sum(axis=0),
        image_counts=(labelled > 0).sum(axis=0),
        ignored_pixels=int(counts[:, IGNORE_INDEX].sum()),
        unlabelled_images=int((labelled.sum(axis=1) == 0).sum()),
        sizes=tuple(sizes),
    )


def _check_sample(dataset: Dataset, sample: Sample) -> tuple[npt.NDArray[np.int64], Size]:
    """How many pixels of the target have each index 0..255, and the size."""
    size = dataset.image_form.verify(sample.image)
    target = dataset.read_target(sample)
    return np.bincount(target.ravel(), minlength=256).astype(np.int64), size


def refuse_unlabelled(summary: DataSummary, dataset: Dataset) -> None:
    """Refuse a split without labelled pixels, or one to learn from with a single class.

    Args:
        summary: Of the split.
        dataset: The split.

    Raises:
        DataError: It is such a split.
    """
    splits = {sample.split for sample in dataset}
    kind = f"{', '.join(dataset.splits)} masks" if dataset.splits else "masks"
    masks = f"{show_path(dataset.root)}: all {len(dataset)} {kind}"
    present = np.flatnonzero(summary.pixel_counts)
    if len(present) == 0:
        raise DataError(
            f"{masks}: expected labelled pixels, got nothing but ignored values",
            hint="label some pixels, or ignore fewer values",
        )
    if len(present) == 1 and splits & {None, "train"}:
        entry = dataset.class_table.classes[int(present[0])]
        raise DataError(
            f'{masks}: expected two classes or more to learn, got only "{entry.name}" (value {entry.value})',
            hint="add masks with another class; the background needs a value of its own, not 255",
        )
