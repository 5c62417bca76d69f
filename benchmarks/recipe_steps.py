"""What a step of each file in `recipes/` takes here: random weights, drawn images of the size of the real ones.

    python benchmarks/recipe_steps.py

The first step is left out, and so is what is computed once. Of the recipes with points `benchmarks/recipes.py` has
the whole trainings.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from _machine import machine, write_results

from fullyconv.config import TrainConfig, config_from_mapping
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.errors import TrainingError
from fullyconv.feature_cache import FeatureCache
from fullyconv.progress import Silent
from fullyconv.settings import read_config
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

RECIPES = Path(__file__).parents[1] / "recipes"

SIZES = {"lecture": (160, 576), "voc": (375, 500), "coco": (480, 640), "camvid": (360, 480)}
"""(height, width) of the images of the real data set, by how the name of a recipe begins."""


class Stopwatch(Silent):
    """Times of steps; ends the run when it has enough of them."""

    def __init__(self, wanted: int) -> None:
        self.times: list[float] = []
        self.wanted = wanted

    def track(self, label: str, total: int):  # noqa: ANN201
        """Note the time of each step of an epoch."""
        if not label.startswith("epoch"):
            return super().track(label, total)
        return self._steps()

    def _steps(self):  # noqa: ANN202
        watch = self

        class Steps:
            def __enter__(self):  # noqa: ANN204
                return self.tick

            def __exit__(self, *error: object) -> None:
                return None

            def tick(self) -> None:
                watch.times.append(time.perf_counter())
                if len(watch.times) > watch.wanted:
                    raise TrainingError("enough")

        return Steps()


def seconds_of_step(config: TrainConfig, size: tuple[int, int], steps: int) -> float:
    """Median seconds between steps on drawn images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", train=config.batch * (steps + 2), val=1, test=0, size=size, seed=0)
        watch = Stopwatch(steps)
        epochs = 0 if config.train_encoder != "none" else config.epochs
        alone = replace(config, epochs=epochs, encoder_weights="none", accumulate=1, threads=None)
        cache = FeatureCache(folder / "cache")
        with contextlib.suppress(TrainingError):
            train(Dataset.open(folder / "data"), folder / "run", alone, cache=cache, progress=watch)
        gaps = sorted(after - before for before, after in zip(watch.times, watch.times[1:], strict=False))
        return gaps[len(gaps) // 2]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps that are timed")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON and keep no file")
    arguments = parser.parse_args()
    set_threads(None)
    rows = []
    lines = ["| recipe | images at once | seconds | 1,000 times |", "|---|---|---|---|"]
    for path in sorted(RECIPES.glob("*.toml")):
        config = config_from_mapping(read_config(path), source=path.name)
        if config.train_on == "points" and config.train_encoder == "none":
            continue
        seconds = seconds_of_step(config, SIZES[path.name.split("-")[0]], arguments.steps)
        rows.append({"recipe": path.name, "batch": config.batch, "seconds": seconds})
        lines.append(f"| {path.name} | {config.batch} | {seconds:.2f} | {seconds / 3.6:.1f} h |")
        print(lines[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "recipes": rows}))
        return
    print(machine(), *lines, sep="\n")
    print(write_results("recipe-steps", lines))


if __name__ == "__main__":
    main()
