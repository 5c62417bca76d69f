"""The closed form: val mean IoU, and seconds of sums and solve against those of an epoch of gradient steps.

    python benchmarks/instant.py ../shared/data/camvid --ignore 11

A row is a choice of taps and of how many pixels are drawn from an image and view (images and mirror images). The
epoch is one of the fast recipe without hidden layer on the same taps. Ridge regression to one-hot targets takes
the same sums. With `--starts N`, training starts from the closed form and from zero, with N seeds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from _machine import machine, open_or_draw

from fullyconv.batches import step_loss
from fullyconv.config import TrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.decoders.practical import PracticalDecoder
from fullyconv.device import choose_precision, set_threads
from fullyconv.discriminant import STEP, LinearFit, Sums, fit_decoder, model_sums, solve
from fullyconv.encoder import Encoder
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.metrics import ConfusionMatrix
from fullyconv.model import build_model
from fullyconv.point_batches import PointBatches
from fullyconv.progress import Silent
from fullyconv.shapes import Features
from fullyconv.train import train
from fullyconv.transforms import PLAIN, make_views
from fullyconv.upsample import predict_mask

TAPS = {(8, (1.0,)): (25, 64, 512), (4, (1.0,)): (64,), (8, (1.0, 1.5)): (64,), (4, (1.0, 1.5)): (64,)}
"""Finest stride and scales, and how many pixels are drawn from an image and view. The last has the taps of all."""

EPOCHS = (1, 2, 4)
IOUS = {"mean IoU": "mean_iou", "with prior 1": "mean_iou_prior_1", "ridge": "mean_iou_ridge"}


class PartReader(FeatureReader):
    """Takes its maps from those of a reader with more taps, so that the encoder runs once for all rows."""

    def __init__(self, encoder: Encoder, dataset: Dataset, cache: FeatureCache, whole: FeatureReader) -> None:
        super().__init__(encoder, dataset, cache)
        self.whole = whole
        self.chosen = [whole.encoder.specs.index(spec) for spec in encoder.specs]

    def _compute(self, sample, view) -> Features:  # noqa: ANN001
        maps = self.whole.maps(sample, view)
        return [maps[index] for index in self.chosen]


class Bench:
    """One choice of taps on one data set."""

    def __init__(self, dataset: Dataset, stride: int, scales: tuple[float, ...], cache: FeatureCache) -> None:
        self.splits = {name: dataset.split(name) for name in ("train", "val")}
        self.settings = {"stride": stride, "scales": scales}
        precision = choose_precision("auto", torch.device("cpu"))
        finest, all_scales = list(TAPS)[-1]
        whole = build_model(recipe(instant=True, stride=finest, scales=all_scales), dataset.class_table).encoder
        self.model = build_model(recipe(instant=True, **self.settings), dataset.class_table)
        self.model.encoder.set_precision(precision)
        self.readers = {
            name: PartReader(
                self.model.encoder, split, cache, FeatureReader(whole.set_precision(precision), split, cache)
            )
            for name, split in self.splits.items()
        }

    def points(self, config: TrainConfig) -> PointBatches:
        """Read the points of some settings."""
        return PointBatches(
            self.readers["train"],
            self.splits["train"],
            make_views(True, (1.0,), 0),
            output_stride=self.model.decoder.output_stride,
            count=config.pixels,
            size=config.batch * config.pixels,
            seed=0,
            progress=Silent(),
        )

    @torch.no_grad()
    def mean_iou(self) -> float:
        """Measure the decoder as it is on val."""
        self.model.eval()
        matrix, split, reader = ConfusionMatrix(self.model.class_table.num_classes), *self._val()
        for sample, maps in zip(split, reader.all_maps((sample, PLAIN) for sample in split), strict=True):
            target = reader.target(sample)
            logits = self.model.logits([values.float() for values in maps], target.shape)
            matrix.update(target, predict_mask(logits, self.model.decoder.output_stride, target.shape)[0].numpy())
        return matrix.report(self.model.class_table.names).mean_iou

    def _val(self) -> tuple[Dataset, PartReader]:
        return self.splits["val"], self.readers["val"]

    def epoch_seconds(self) -> float:
        """Seconds of an epoch of gradient steps, without measuring val."""
        config = recipe("fast", hidden=0, **self.settings)
        batches = self.points(config)
        decoder = build_model(config, self.splits["train"].class_table).decoder.train()
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
        start = time.perf_counter()
        for batch in batches.epoch(0):
            optimizer.zero_grad(set_to_none=True)
            step_loss(decoder, batch, config.loss, None).backward()
            optimizer.step()
        return time.perf_counter() - start

    def row(self, pixels: int) -> dict[str, object]:
        """Solve from so many pixels of an image and view, by the closed form and by ridge regression."""
        batches = self.points(recipe(instant=True, pixels=pixels, **self.settings))
        decoder = self.model.decoder
        assert isinstance(decoder, PracticalDecoder)
        start = time.perf_counter()
        sums = model_sums(self.model, batches.points, batches.targets, batches.shares)
        summed = time.perf_counter()
        fit_decoder(decoder, sums)
        solved = time.perf_counter()
        found: dict[str, object] = {
            **self.settings,
            "pixels": len(batches.targets),
            "pixels_a_view": pixels,
            "sums_seconds": summed - start,
            "solve_seconds": solved - summed,
            "mean_iou": self.mean_iou(),
        }
        decoder.set_linear(*solve(sums, prior=1.0))
        found["mean_iou_prior_1"] = self.mean_iou()
        decoder.set_linear(*ridge(sums))
        return {**found, "mean_iou_ridge": self.mean_iou()}


def ridge(sums: Sums, penalty: float = 1e-3) -> LinearFit:
    """Least squares to one-hot targets, with a penalty on the weights of standardised features."""
    fit, number = solve(sums), sums.counts.sum()
    shares = sums.counts.double() / number
    covariance = sums.gram.double() / number * STEP**2 - torch.outer(fit.means, fit.means)
    cross = sums.totals.double() / number * STEP - torch.outer(shares, fit.means)
    deviations = fit.variances.sqrt().clamp(min=STEP)
    correlations = covariance / deviations / deviations[:, None]
    correlations.diagonal().add_(penalty)
    weights = torch.linalg.solve(correlations, (cross / deviations).T).T / deviations
    return fit._replace(weights=weights, biases=shares - weights @ fit.means)


def starts(dataset: Dataset, seeds: int, cache: FeatureCache, folder: Path) -> list[dict[str, object]]:
    """Train the linear decoder of the fast recipe from the closed form and from zero."""
    solved = train(dataset, folder / "instant", recipe("fast", instant=True), cache=cache)
    rows = []
    for epochs in EPOCHS:
        for start in (None, solved.model):
            name = f"{epochs}-{'zero' if start is None else 'instant'}"
            ious = []
            for seed in range(seeds):
                config = recipe("fast", hidden=0, epochs=epochs, steps=0, seed=seed)
                run = train(dataset, folder / f"{name}-{seed}", config, start_from=start, cache=cache)
                ious.append(run.history[-1]["mean_iou"])
                say(f"{name} seed {seed}: {ious[-1]:.4f}")
            rows.append(
                {"epochs": epochs, "start": name.split("-")[1], "mean_iou": statistics.mean(ious), "ious": ious}
            )
    return rows


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--starts", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--cache", type=Path, help="keep the features here; else they go at the end")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)
    rows, started = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), folder / "data")
        if not dataset.has_split("val"):
            dataset = dataset.with_seeded_split(0.2, 0)
        cache = FeatureCache(arguments.cache or folder / "cache")
        for (stride, scales), counts in TAPS.items():
            bench = Bench(dataset, stride, scales, cache)
            epoch = bench.epoch_seconds()
            for pixels in counts:
                rows.append({**bench.row(pixels), "epoch_seconds": epoch})
                say(json.dumps(rows[-1]))
        if arguments.starts:
            started = starts(dataset, arguments.starts, cache, folder)
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows, "starts": started}))
        return
    print(json.dumps(machine()))
    for row in rows:
        seconds = row["sums_seconds"] + row["solve_seconds"]
        ious = (f"{name} {row[key]:.4f}" for name, key in IOUS.items())
        times = f"{seconds:.2f} s, 1/{row['epoch_seconds'] / seconds:.1f} of an epoch"
        taps = f"stride {row['stride']}, scales {row['scales']}, {row['pixels']:7} pixels"
        print(f"{taps}: {', '.join(ious)}; {times}")
    for row in started:
        print(f"{row['epochs']} epochs from {row['start']:8} mean IoU {row['mean_iou']:.4f}")


if __name__ == "__main__":
    main()
