"""What makes an epoch fast: one factor for each step from the encoder in the loop to the decoder step alone.

    python benchmarks/train_epoch.py ../shared/data/camvid --ignore 11

For the fast recipe on EfficientNet-Lite0 and for the lecture's network on VGG16 (random weights: as fast).
All figures are seconds an image and view, each the median of rounds that take the variants in turn:

    in the loop, full loss      the encoder computes each view, cross entropy at every pixel
    in the loop, sampled loss   the same with logits at drawn pixels only
    bfloat16 in the loop        the same with the encoder in bfloat16
    cache, full loss            feature maps from the cache on disk
    cache, sampled loss         the recipe: what an epoch costs
    with extraction             the recipe, with computing the features once spread over its epochs
    decoder alone               the step on maps that are in memory already: the floor
    points                      the point cache: features read once at drawn pixels
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _machine import machine, open_or_draw

from fullyconv.batches import MapBatches, PointBatches, step_loss
from fullyconv.check import check_dataset
from fullyconv.config import TrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.decoder import Decoder
from fullyconv.device import set_threads
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.progress import Silent
from fullyconv.train import build_model
from fullyconv.transforms import PLAIN

NETWORKS = {
    "linear FCN-8s on EfficientNet-Lite0": recipe("fast", hidden=0, stride=8, train_on="maps", pixels=4096),
    "lecture's network on VGG16": recipe(
        "fast", decoder="lecture", encoder="vgg16", encoder_weights="none", batch=2
    ),
}


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bench:
    """The variants of one network on a few images of a data set."""

    def __init__(self, config: TrainConfig, dataset: Dataset, images: int, folder: Path) -> None:
        self.config = config
        split = dataset.split("train")
        self.split = replace(split, samples=split.samples[:images])
        self.images = len(self.split)
        self.sizes = list(check_dataset(self.split).sizes)
        torch.manual_seed(0)
        self.model = build_model(config, dataset)
        self.decoder: Decoder = self.model.decoder.train()
        self.optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=1e-4)
        self.cache = FeatureCache(folder / "cache")

    def variants(self) -> dict[str, Callable[[], float]]:
        """Name each variant and give what runs it on all images once and returns its seconds."""
        variants = {
            "in the loop, full loss": lambda: self.epoch(self.maps("full", None), "full"),
            "in the loop, sampled loss": lambda: self.epoch(self.maps("sampled", None), "sampled"),
            "bfloat16 in the loop": self.in_bfloat16,
            "cache, full loss": lambda: self.epoch(self.maps("full", self.cache), "full"),
            "cache, sampled loss": lambda: self.epoch(self.maps("sampled", self.cache), "sampled"),
            "decoder alone": self.alone,
        }
        if self.decoder.reads_points:
            variants["points"] = self.points
        return variants

    def maps(self, loss: str, cache: FeatureCache | None) -> MapBatches:
        """Batches of feature maps, computed or from the cache."""
        return MapBatches(
            FeatureReader(self.model.encoder, self.split, cache),
            self.split,
            (PLAIN,),
            decoder=self.decoder,
            sizes=self.sizes,
            crop=0,
            count=0 if loss == "full" else self.config.pixels,
            batch=self.config.batch,
            seed=0,
        )

    def epoch(self, batches: MapBatches | PointBatches, loss: str) -> float:
        """Seconds of one epoch."""
        return timed(lambda: [self.step(batch, loss) for batch in batches.epoch(0)])

    def step(self, batch: object, loss: str) -> None:
        """Take a step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        step_loss(self.decoder, batch, "cross_entropy", None).backward()
        self.optimizer.step()

    def in_bfloat16(self) -> float:
        """The encoder in the loop in bfloat16."""
        self.model.encoder.set_precision(torch.bfloat16)
        self.model.encoder.working_network()
        seconds = self.epoch(self.maps("sampled", None), "sampled")
        self.model.encoder.set_precision(torch.float32)
        self.model.encoder.working_network()
        return seconds

    def alone(self) -> float:
        """Steps on batches that are in memory."""
        batches = list(self.maps("sampled", self.cache).epoch(0))
        return timed(lambda: [self.step(batch, "sampled") for batch in batches])

    def points(self) -> float:
        """An epoch on points."""
        config = self.config
        reader = FeatureReader(self.model.encoder, self.split, self.cache)
        batches = PointBatches(
            reader,
            self.split,
            (PLAIN,),
            output_stride=self.decoder.output_stride,
            count=512,
            size=512 * config.batch,
            seed=0,
            progress=Silent(),
        )
        return self.epoch(batches, "sampled")


def measure(
    name: str, config: TrainConfig, dataset: Dataset, images: int, rounds: int, folder: Path
) -> dict[str, object]:
    """Run all variants in turn and take medians."""
    bench = Bench(config, dataset, images, folder)
    variants = bench.variants()
    extraction = timed(lambda: bench.epoch(bench.maps("sampled", bench.cache), "sampled"))
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in range(rounds):
        for variant, run in variants.items():
            seconds[variant].append(run() / bench.images)
            print(f"{name}, round {turn + 1}: {variant} {seconds[variant][-1]:.4f}", file=sys.stderr, flush=True)
    medians = {variant: statistics.median(values) for variant, values in seconds.items()}
    # The first epoch computed every feature; the recipe does so once for all its epochs.
    medians["with extraction"] = medians["cache, sampled loss"] + extraction / bench.images / config.epochs
    slow, fast = medians["in the loop, full loss"], medians["cache, sampled loss"]
    return {
        "network": name,
        "images": bench.images,
        "seconds_an_image": medians,
        "factors": {
            "whole: in the loop, full loss / cache, sampled loss": slow / fast,
            "whole with extraction spread over the epochs": slow / medians["with extraction"],
            "encoder out of the loop (full loss)": slow / medians["cache, full loss"],
            "sampled loss (from the cache)": medians["cache, full loss"] / fast,
            "bfloat16 (in the loop)": medians["in the loop, sampled loss"] / medians["bfloat16 in the loop"],
            "left to gain: cache, sampled loss / decoder alone": fast / medians["decoder alone"],
        },
    }


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, nargs=2, default=(32, 4), help="for each network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), folder / "data")
        for (network, config), images in zip(NETWORKS.items(), arguments.images, strict=True):
            results.append(measure(network, config, dataset, images, arguments.rounds, folder / network[:4]))
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": results}))
        return
    print(json.dumps(machine()))
    for result in results:
        print(f"\n{result['network']}, {result['images']} images, seconds an image and view")
        for variant, value in result["seconds_an_image"].items():
            print(f"  {variant:28} {value:9.4f}")
        for factor, value in result["factors"].items():
            print(f"  x {value:7.1f}  {factor}")


if __name__ == "__main__":
    main()
