"""The lineage on one data set: fixed encoder, stages, at once, fine-tuned; val mean IoU and minutes of each.

    python benchmarks/lineage.py ../shared/data/camvid --ignore 11

Minutes are of the whole command, features included: the stages of a staged training are added up as they come. The
load of the machine is printed, since on a busy one they are more. Test images, where there are any, are measured
once at the end by the model that val chose; nothing is chosen by them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from _machine import machine, open_or_draw, write_results

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.evaluate import evaluate
from fullyconv.feature_cache import FeatureCache
from fullyconv.predict import Predictor
from fullyconv.progress import Silent
from fullyconv.staged import train_staged
from fullyconv.train import TrainResult, train

Row = tuple[str, TrainResult, float]


def one(name: str, *base: str, **changes: object) -> Callable[[Dataset, Path, FeatureCache], list[Row]]:
    """A training of its own."""

    def run(dataset: Dataset, folder: Path, cache: FeatureCache) -> list[Row]:
        start = time.perf_counter()
        result = train(dataset, folder, recipe(*base, **changes), cache=cache)
        return [(name, result, time.perf_counter() - start)]

    return run


def staged(dataset: Dataset, folder: Path, cache: FeatureCache) -> list[Row]:
    """FCN-32s, FCN-16s from it, FCN-8s from that."""
    stages = Stages()
    results = train_staged(dataset, folder, recipe(decoder="fcn", stride=8), cache=cache, progress=stages)
    ends = [*stages.starts[1:], time.perf_counter()]
    return [
        (f"staged, FCN-{stride}s", result, end - stages.starts[0])
        for (stride, result), end in zip(results.items(), ends, strict=True)
    ]


class Stages(Silent):
    """Note when each stage begins."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def say(self, line: str) -> None:
        """Note a stage."""
        if line.startswith("stage FCN-"):
            self.starts.append(time.perf_counter())


TWO_SCALES = tomllib.loads((Path(__file__).parents[1] / "recipes" / "camvid-tuned.toml").read_text("utf-8"))
"""Settings of that file."""

SYSTEMS = {
    "fixed": one("fixed, default recipe"),
    "fast": one("fixed, fast recipe", "fast"),
    "staged": staged,
    "at-once": one("at once, FCN-8s", decoder="fcn", stride=8),
    "at-once-vgg": one("at once, FCN-8s, constants of VGG16", decoder="fcn_at_once", stride=8),
    "tuned": one("fine-tuned, features of the fast recipe", "tuned"),
    "tuned-two-scales": one("fine-tuned, features of the default recipe", "tuned", **TWO_SCALES),
}


def main() -> None:
    """Train each, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON and keep no file")
    arguments = parser.parse_args()
    set_threads(None)
    found: list[dict[str, object]] = []
    lines = ["| system | val mean IoU | test mean IoU | minutes |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), folder / "data")
        for system in arguments.systems:
            # A cache of its own: nothing is there before.
            rows = SYSTEMS[system](dataset, folder / system, FeatureCache(folder / f"cache-{system}"))
            for label, result, seconds in rows:
                test = (
                    f"{evaluate(Predictor(result.model), dataset.split('test')).mean_iou:.4f}"
                    if dataset.has_split("test")
                    else "none"
                )
                found.append(
                    {"system": label, "mean_iou": result.report.mean_iou, "test": test, "seconds": seconds}
                )
                lines.append(f"| {label} | {result.report.mean_iou:.4f} | {test} | {seconds / 60:.1f} |")
                print(lines[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "systems": found}))
        return
    busy = os.getloadavg()[2]
    lines.append(f"\nLoad of the machine over the last 15 minutes: {busy:.1f}.")
    print(machine(), *lines, sep="\n")
    print(write_results("lineage", lines))


if __name__ == "__main__":
    main()
