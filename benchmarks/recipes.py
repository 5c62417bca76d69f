"""What recipes reach: val mean IoU over seeds, and time as a ratio to one bfloat16 feature pass.

    python benchmarks/recipes.py ../shared/data/camvid --ignore 11 --seeds 3

A recipe is a name of `fullyconv.recipes.RECIPES`, optionally with changes: `default,decoder=fcn,stride=32`. The
feature pass is over all training images and their mirror images at scale 1, by the same workers; every recipe
computes its own features anew (its cache is a new folder), all seeds of a recipe share them.
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

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.encoder import Encoder
from fullyconv.encoders import build_network
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.progress import Silent
from fullyconv.train import train
from fullyconv.transforms import make_views

RECIPES = (
    "default",
    "fast",
    "default,decoder=fcn,stride=32",
    "default,decoder=fcn,stride=16",
    "default,decoder=fcn,stride=8",
)


class Timer(Silent):
    """Note when the first epoch begins: what came before was reading features."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.features: float | None = None

    def track(self, label: str, total: int):  # noqa: ANN201
        """Note the first epoch."""
        if label.startswith("epoch") and self.features is None:
            self.features = time.perf_counter() - self.start
        return super().track(label, total)


def feature_pass(dataset: Dataset, precision: torch.dtype, items: int) -> float:
    """Seconds that features of all training images and mirror images take, measured on some of them."""
    encoder = Encoder(build_network("efficientnet_lite0"), (8, 16, 32)).set_precision(precision)
    train_split = dataset.split("train")
    pairs = [(sample, view) for sample in train_split for view in make_views(True, (1.0,), 0)]
    chosen = pairs[:: max(1, len(pairs) // items)]
    reader = FeatureReader(encoder, train_split)
    next(reader.all_maps(chosen[:1]))
    start = time.perf_counter()
    for _ in reader.all_maps(chosen):
        pass
    return (time.perf_counter() - start) / len(chosen) * len(pairs)


def measure(dataset: Dataset, text: str, seeds: int, folder: Path) -> dict[str, object]:
    """Train a recipe with each seed."""
    name, *changes = text.split(",")
    settings = {
        key: int(value) if value.isdigit() else value for key, value in (change.split("=") for change in changes)
    }
    ious, seconds, features = [], [], []
    cache = FeatureCache(folder / "cache")
    for seed in range(seeds):
        timer = Timer()
        result = train(
            dataset, folder / f"seed-{seed}", recipe(name, seed=seed, **settings), cache=cache, progress=timer
        )
        total = time.perf_counter() - timer.start
        ious.append(result.report.mean_iou)
        seconds.append(total)
        features.append(timer.features or 0.0)
        print(f"{text} seed {seed}: mean IoU {ious[-1]:.4f}, {total:.0f} s", file=sys.stderr, flush=True)
    return {
        "recipe": text,
        "mean_iou": statistics.mean(ious),
        "sd": statistics.stdev(ious) if seeds > 1 else None,
        "mean_ious": ious,
        "per_class": {entry.name: entry.iou for entry in result.report.classes},
        "first_run_seconds": seconds[0],
        "next_run_seconds": statistics.mean(seconds[1:]) if seeds > 1 else None,
        "first_features_seconds": features[0],
    }


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--pass-items", type=int, default=40, help="image views timed in the feature pass")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), folder / "data")
        passes = {
            str(p).removeprefix("torch."): feature_pass(dataset, p, arguments.pass_items)
            for p in (torch.bfloat16, torch.float32)
        }
        rows = []
        for index, text in enumerate(arguments.recipes):
            (folder / str(index)).mkdir()
            rows.append(measure(dataset, text, arguments.seeds, folder / str(index)))
    if arguments.json:
        print(json.dumps({"machine": machine(), "feature_pass_seconds": passes, "recipes": rows}))
        return
    print(json.dumps(machine()))
    print(
        f"feature pass over images and mirrors, scale 1: {passes['bfloat16']:.0f} s bfloat16, "
        f"{passes['float32']:.0f} s float32"
    )
    for row in rows:
        spread = "" if row["sd"] is None else f" (sd {row['sd']:.4f})"
        print(
            f"{row['recipe']:36}  mean IoU {row['mean_iou']:.4f}{spread}  first run "
            f"{row['first_run_seconds'] / passes['bfloat16']:.2f} bfloat16 passes, "
            f"{row['first_run_seconds'] / passes['float32']:.2f} float32 passes"
        )


if __name__ == "__main__":
    main()
