"""What each stride of a model contributes on a data set, measured by taking it away.

A feature map is taken away by putting its mean in its place: in every cell the mean of that channel over all
cells of all chosen images. The decoder then sees a map that says nothing about the image but is as large as it
is used to. The means are computed in a first pass, the masks in a second one.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import DataError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.image_form import shown
from fullyconv.images import show_path
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Features, Image, Mask, Size
from fullyconv.sizes import scaled_size
from fullyconv.stages import Outline
from fullyconv.transforms import PLAIN
from fullyconv.upsample import predict_mask

__all__ = ["Ablation", "Part", "SkipRow", "choose_images", "measure_strides"]

SKIP_ROWS = 3
"""Images for which the masks are kept that come with ever finer strides."""

SkipRow = tuple[Image, Mask, list[Mask]]
"""An image, its target, and the predictions from the coarsest stride alone to all of them."""


@dataclass(frozen=True)
class Part:
    """Some feature maps, and how the model does without them, or with nothing else.

    Attributes:
        name: What they are: "stride 8", "scale 1.5", "stage3@1.5"; "strides 32, 16" for several.
        labels: The maps that are taken away.
        report: How the model does then.
        share: In a linear network, the maps' share of the logits; None elsewhere. See `Ablation`.
    """

    name: str
    labels: tuple[str, ...]
    report: Report
    share: float | None = None

    def worst(self, whole: Report) -> tuple[str, float, float] | None:
        """The class that loses most IoU: its name, its IoU with everything and now; None where none loses."""
        drops = [
            ((before.iou or 0.0) - (now.iou or 0.0), before.name, before.iou or 0.0, now.iou or 0.0)
            for before, now in zip(whole.classes, self.report.classes, strict=True)
        ]
        drop, name, before, now = max(drops, key=lambda entry: entry[0])
        return (name, before, now) if drop > 0 else None


@dataclass(frozen=True)
class Ablation:
    """What each stride of a model contributes.

    In a linear network the logits are a sum over the feature maps. With d_m the part of map m in it (how far it
    moves the logits from where they are if all maps are at their means), each less its mean over the classes, and
    d the sum of all, the share of m is the sum of d_m d over that of d d, over all cells and images. Shares add up
    to 1; one can be negative.

    Attributes:
        whole: How the model does.
        without: Each stride; each scale, where there are several; each map, where a stride has several.
        down_to: With nothing but the coarsest stride, then the two coarsest, and so on to all.
        images: On how many images.
        available: Of how many they were drawn.
        seed: How they were drawn.
        rows: A few images with the masks of `down_to`.
    """

    whole: Report
    without: tuple[Part, ...]
    down_to: tuple[Part, ...]
    images: int
    available: int
    seed: int
    rows: tuple[SkipRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the masks as JSON values."""
        whole = self.whole.mean_iou

        def values(part: Part) -> dict[str, Any]:
            mean_iou = part.report.mean_iou
            drop = None if whole is None or mean_iou is None else whole - mean_iou
            return {
                "name": part.name,
                "removed": list(part.labels),
                "mean_iou": mean_iou,
                "drop": drop,
                "share": part.share,
                "class_iou": {entry.name: entry.iou for entry in part.report.classes},
            }

        return {
            "images": self.images,
            "of": self.available,
            "seed": self.seed,
            "mean_iou": whole,
            "class_iou": {entry.name: entry.iou for entry in self.whole.classes},
            "without": [values(part) for part in self.without],
            "down_to": [values(part) for part in self.down_to],
        }

    def table(self) -> str:
        """Both lists as aligned plain text."""
        drawn = (
            f"{self.images} images"
            if self.images == self.available
            else (f"{self.images} of {self.available} images (seed {self.seed})")
        )
        whole = self.whole.mean_iou or 0.0
        width = max(len(part.name) for part in (*self.without, *self.down_to)) + 2
        linear = self.without[0].share is not None
        lines = [f"mean IoU on {drawn}: {whole:.4f}", ""]
        lines.append(f"{'without':<{width}}mean IoU     drop{'   share' * linear}  hits most")
        for part in self.without:
            mean_iou = part.report.mean_iou or 0.0
            share = f"  {part.share:6.3f}" if part.share is not None else ""
            worst = part.worst(self.whole)
            hit = f"  {worst[0]}: {worst[1]:.3f} -> {worst[2]:.3f}" if worst else ""
            lines.append(f"{part.name:<{width}}{mean_iou:8.4f}  {whole - mean_iou:7.4f}{share}{hit}")
        lines += ["", f"{'with nothing but':<{width}}mean IoU     more"]
        before = None
        for part in self.down_to:
            mean_iou = part.report.mean_iou or 0.0
            more = "" if before is None else f"  {mean_iou - before:+7.4f}"
            lines.append(f"{part.name:<{width}}{mean_iou:8.4f}{more}")
            before = mean_iou
        return "\n".join(lines)


def choose_images(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Draw some of the samples of a data set, kept in their order; all where there are not more.

    Raises:
        UsageError: Fewer than one is asked for.
    """
    if count < 1:
        raise UsageError(f"expected 1 image or more to measure on, got {count}")
    if count >= len(dataset):
        return dataset
    drawn = sorted(random.Random(seed).sample(range(len(dataset)), count))
    return replace(dataset, samples=tuple(dataset[index] for index in drawn))


@torch.no_grad()
def measure_strides(
    predictor: Predictor,
    outline: Outline,
    dataset: Dataset,
    *,
    images: int = 50,
    seed: int = 0,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Measure what each stride of a model contributes.

    Features are read in half precision, as in training, so that the mean IoU of the whole model may differ from
    that of `evaluate` in its last digits.

    Args:
        predictor: The model, on its device.
        outline: Of the same model.
        dataset: Opened with the model's class table.
        images: How many images to draw at most.
        seed: Decides the draw.
        cache: Where features are kept.
        progress: Where to report.

    Raises:
        DataError: An image or mask that cannot be used, or not one labelled pixel.
        UsageError: No image is asked for.
    """
    progress = progress or Silent()
    chosen = choose_images(dataset, images, seed)
    reader = FeatureReader(predictor.model.encoder, chosen, cache)
    measured = _Measurement(predictor, outline, reader)
    with progress.track("means of the features", len(chosen)) as step:
        for sample, features in _with_features(reader, chosen):
            measured.add_to_means(sample, features)
            step()
    last = len(chosen) - 1
    shown = {last * row // (SKIP_ROWS - 1) for row in range(SKIP_ROWS)}  # Neighbours are often alike.
    with progress.track("measuring what each stride contributes", len(chosen)) as step:
        for number, (sample, features) in enumerate(_with_features(reader, chosen)):
            measured.add(sample, features, keep=number in shown)
            step()
    return replace(measured.result(), images=len(chosen), available=len(dataset), seed=seed)


def _with_features(reader: FeatureReader, dataset: Dataset) -> Iterator[tuple[Sample, Features]]:
    maps = reader.all_maps((sample, PLAIN) for sample in dataset)
    yield from zip(dataset, maps, strict=True)


class _Measurement:
    """The sums of both passes."""

    def __init__(self, predictor: Predictor, outline: Outline, reader: FeatureReader) -> None:
        self.model: FCN = predictor.model
        self.device = predictor.device
        self.reader = reader
        self.labels = tuple(spec.label for spec in self.model.encoder.specs)
        self.without = _parts(self.model)
        self.down_to = _growing(self.model)
        classes = predictor.class_table.num_classes
        wanted = {(), *self.without.values(), *self.down_to.values()}
        self.matrices = {removed: ConfusionMatrix(classes) for removed in wanted}
        self.names = predictor.class_table.names
        self.sums = [torch.zeros(spec.channels, dtype=torch.float64) for spec in self.model.encoder.specs]
        self.cells = [0] * len(self.sums)
        self.is_linear = outline.is_linear
        self.products = dict.fromkeys(self.labels, 0.0)
        self.rows: list[SkipRow] = []

    def add_to_means(self, sample: Sample, features: Features) -> None:
        """First pass: sum the cells that lie in the image."""
        size = self.reader.dataset.image_form.size(sample.image)
        for index, (spec, maps) in enumerate(zip(self.model.encoder.specs, features, strict=True)):
            rows, columns = (-(-side // spec.tap.stride) for side in scaled_size(size, spec.scale))
            self.sums[index] += maps[0, :, :rows, :columns].double().sum((1, 2))
            self.cells[index] += rows * columns

    def add(self, sample: Sample, features: Features, *, keep: bool) -> None:
        """Second pass: compare the masks with the target, all maps there and some taken away."""
        target = self.reader.target(sample)
        size = (target.shape[0], target.shape[1])
        live = [maps.float().to(self.device) for maps in features]
        logits = partial(self._logits, live, self._means(), size)
        masks = {
            removed: predict_mask(logits(removed), self.model.decoder.output_stride, size)[0].cpu().numpy()
            for removed in self.matrices
        }
        for removed, mask in masks.items():
            self.matrices[removed].update(target, mask)
        if keep:
            growing = [masks[removed] for removed in self.down_to.values()]
            self.rows.append((shown(self.reader.image(sample)), target, growing))
        if self.is_linear:
            self._add_products(logits, size)

    def _means(self) -> list[Tensor]:
        means = [(total / cells).float() for total, cells in zip(self.sums, self.cells, strict=True)]
        return [mean[None, :, None, None].to(self.device) for mean in means]

    def _logits(self, live: Features, means: list[Tensor], size: Size, removed: Sequence[str]) -> Tensor:
        features = [
            mean.expand_as(maps).contiguous() if label in removed else maps
            for label, maps, mean in zip(self.labels, live, means, strict=True)
        ]
        return self.model.logits(features, size)

    def _add_products(self, logits: Callable[[Sequence[str]], Tensor], size: Size) -> None:
        """Sum d_m d for each map m (see `Ablation`)."""
        stride = self.model.decoder.output_stride
        rows, columns = (-(-side // stride) for side in size)

        def moved(removed: tuple[str, ...]) -> Tensor:
            away = (logits(removed) - nothing)[..., :rows, :columns].double()
            less_mean: Tensor = away - away.mean(dim=1, keepdim=True)
            return less_mean

        nothing = logits(self.labels)
        everything = moved(())
        for label in self.labels:
            alone = moved(tuple(other for other in self.labels if other != label))
            self.products[label] += float((alone * everything).sum())

    def result(self) -> Ablation:
        """What both passes found."""
        reports = {removed: matrix.report(self.names) for removed, matrix in self.matrices.items()}
        if reports[()].labelled_pixels == 0:
            raise DataError(
                f"{show_path(self.reader.dataset.root)}: expected labelled pixels to measure, all are ignored"
            )
        total = sum(self.products.values())

        def share(labels: tuple[str, ...]) -> float | None:
            return sum(self.products[label] for label in labels) / total if total else None

        return Ablation(
            whole=reports[()],
            without=tuple(
                Part(name, labels, reports[labels], share(labels)) for name, labels in self.without.items()
            ),
            down_to=tuple(Part(name, removed, reports[removed]) for name, removed in self.down_to.items()),
            images=0,
            available=0,
            seed=0,
            rows=tuple(self.rows),
        )


def _parts(model: FCN) -> dict[str, tuple[str, ...]]:
    """What to take away: each stride, coarsest first; each scale where there are several; each map likewise."""
    encoder = model.encoder
    strides = sorted(set(encoder.strides), reverse=True)
    parts = {
        f"stride {stride}": tuple(spec.label for spec in encoder.specs if spec.tap.stride == stride)
        for stride in strides
    }
    if len(encoder.scales) > 1:
        for scale in encoder.scales:
            parts[f"scale {scale:g}"] = tuple(spec.label for spec in encoder.specs if spec.scale == scale)
    if len(encoder.specs) > len(strides):
        for spec in sorted(encoder.specs, key=lambda spec: -spec.stride):
            parts[spec.label] = (spec.label,)
    return parts


def _growing(model: FCN) -> dict[str, tuple[str, ...]]:
    """What to take away so that nothing but the coarsest strides is left: one, two, and so on to all."""
    encoder = model.encoder
    strides = sorted(set(encoder.strides), reverse=True)
    growing = {}
    for number in range(1, len(strides) + 1):
        kept = strides[:number]
        name = f"stride{'s' * (number > 1)} {', '.join(map(str, kept))}"
        growing[name] = tuple(spec.label for spec in encoder.specs if spec.tap.stride not in kept)
    return growing
