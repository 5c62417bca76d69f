"""A folder or list of images and masks as a `Dataset` of samples."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fullyconv.class_table import ClassTable
from fullyconv.errors import DataError, UsageError
from fullyconv.images import IMAGE_SUFFIXES, image_size, read_image, read_mask_array
from fullyconv.shapes import Image, Mask

__all__ = ["Dataset", "Sample"]


@dataclass(frozen=True)
class Sample:
    """An image and its mask."""

    id: str
    image: Path
    mask: Path | None
    split: str | None


@dataclass(frozen=True)
class Dataset:
    """Ordered samples and what their masks mean."""

    root: Path
    class_table: ClassTable
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        classes: str | Path | Sequence[str] | None = None,
        ignore: Sequence[int] = (),
        class_table: ClassTable | None = None,
    ) -> "Dataset":
        """Find images and masks."""
        root = Path(path)
        samples: list[Sample] = []
        for split in ("train", "val", "test", None):
            for images, masks in (
                (root / "images" / (split or ""), root / "masks" / (split or "")),
                (root / (split or "") / "images", root / (split or "") / "masks"),
            ):
                if not images.is_dir() or not masks.is_dir() or (split is None and samples):
                    continue
                found = {p.relative_to(masks).with_suffix("").as_posix(): p for p in masks.rglob("*.png")}
                for image in sorted(images.rglob("*")):
                    if image.suffix.lower() in IMAGE_SUFFIXES:
                        name = image.relative_to(images).with_suffix("").as_posix()
                        if name not in found:
                            raise DataError(f"{image} has no mask in {masks}")
                        samples.append(Sample(name, image, found[name], split))
        if not samples:
            raise DataError(f"{root}: no images found")
        if class_table is None:
            if isinstance(classes, str | Path):
                class_table = ClassTable.from_file(classes, ignore)
            elif classes is not None:
                class_table = ClassTable.from_names(classes, ignore)
            elif (root / "classes.txt").exists():
                class_table = ClassTable.from_file(root / "classes.txt", ignore)
            else:
                values: set[int] = set()
                for sample in samples:
                    if sample.mask is not None:
                        values |= {int(v) for v in np.unique(read_mask_array(sample.mask))}
                if values == {0, 255} and 255 not in ignore:
                    class_table = ClassTable.binary()
                else:
                    class_table = ClassTable.from_values(values, ignore)
        note = f"{len(samples)} samples in {root}; {class_table.num_classes} classes."
        return cls(root, class_table, tuple(samples), (note,))

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples by split name."""
        counts: dict[str, int] = {}
        for sample in self.samples:
            if sample.split is not None:
                counts[sample.split] = counts.get(sample.split, 0) + 1
        return counts

    def has_split(self, name: str) -> bool:
        """Whether there are samples of this split."""
        return name in self.splits

    def split(self, name: str) -> "Dataset":
        """The samples of one split."""
        if not self.has_split(name):
            raise DataError(f"{self.root} has no split {name!r}; it has {list(self.splits) or 'none'}")
        return replace(self, samples=tuple(s for s in self.samples if s.split == name))

    def with_seeded_split(self, fraction: float, seed: int) -> "Dataset":
        """Split val off the train samples, or off all where there are no splits."""
        if not 0 < fraction < 1:
            raise UsageError(f"expected a val fraction between 0 and 1, got {fraction}")
        if self.has_split("val"):
            raise UsageError(f"{self.root} has a val split already")
        pool = [s for s in self.samples if s.split in (None, "train")]
        if len(pool) < 2:
            raise DataError(f"{self.root}: expected at least 2 samples to split, got {len(pool)}")
        pool.sort(key=lambda s: hashlib.sha256(f"{seed}:{s.id}".encode()).hexdigest())
        count = min(max(round(fraction * len(pool)), 1), len(pool) - 1)
        val = {s.id for s in pool[:count]}
        samples = tuple(
            s if s.split == "test" else replace(s, split="val" if s.id in val else "train") for s in self.samples
        )
        return replace(self, samples=samples)

    def read_image(self, sample: Sample) -> Image:
        """H x W x 3 uint8 RGB."""
        return read_image(sample.image)

    def read_target(self, sample: Sample) -> Mask:
        """H x W uint8 class indices, 255 = ignored."""
        if sample.mask is None:
            raise DataError(f"{sample.image} has no mask")
        values = read_mask_array(sample.mask)
        if values.shape[:2] != image_size(sample.image):
            raise DataError(f"{sample.mask}: size {values.shape[:2]} is not that of its image {sample.image}")
        return self.class_table.decode(values, sample.mask)
