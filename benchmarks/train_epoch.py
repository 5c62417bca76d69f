"""What makes an epoch fast: one factor for each step from the encoder in the loop to the decoder step alone.

    python benchmarks/train_epoch.py ../shared/data/camvid --ignore 11
    python benchmarks/train_epoch.py ../shared/data/camvid --ignore 11 --peer

For the fast recipe and a linear FCN-8s on EfficientNet-Lite0, and for the lecture's network on VGG16 (random
weights: as fast). All figures are seconds an image and view, each the median of rounds that take the variants in
turn: on the clock, and of the processor (summed over threads, and hardly changed by other programs).

    in the loop, full loss      the encoder computes each view, cross entropy at every pixel
    in the loop, sampled loss   the same with logits at drawn pixels only
    bfloat16 in the loop        the same with the encoder in bfloat16
    cache, full loss            feature maps from the cache on disk
    cache, sampled loss         the same with logits at drawn pixels only: the first epoch of a run on maps
    memory, sampled loss        its next epochs: maps that fit into memory stay there
    decoder alone               the step on batches that are in memory already: the floor of training on maps
    points                      the point cache: features read once at drawn pixels
    extraction, float32         computing the maps and storing them in the cache, once
    extraction, bfloat16        the same with the encoder in bfloat16
    with extraction             cache, sampled loss, and its share of one extraction in float32 over all epochs
    with extraction, bfloat16   the same with the encoder in bfloat16

With --peer: seconds of a whole epoch of the default and the fast recipe, taken from real runs of `train`, and of
a U-Net of segmentation_models.pytorch with the same encoder, frozen (_peer.py says how it is made). Pip installs
it into a temporary environment, or it is there already in that of --peer-python. After each epoch of ours the peer
takes a few steps (--peer-batches of 8 images) in float32 and in bfloat16 autocast; the median of its turns is
scaled to one look at each training image. Our epoch is more: every image and its mirror image, 512 pixels of
each. Its time is given as

    steps                       the training steps, features in memory: the like of the peer's epoch
    steps + extraction          and the share of computing and reading the training features once for all epochs
    steps + validation          and the validation, which the peer's epoch is spared
    steps + validation + extraction of both
                                and the share of the features of the val split: all that a run does in its epochs
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _epoch import against_peer, named, now, show_epochs
from _machine import machine, open_or_draw

from fullyconv.batches import step_loss
from fullyconv.check import check_dataset
from fullyconv.config import TrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.decoder import Decoder
from fullyconv.device import set_threads
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.map_batches import MapBatches
from fullyconv.model import build_model
from fullyconv.point_batches import PointBatches
from fullyconv.progress import Silent
from fullyconv.transforms import PLAIN

NETWORKS = {
    "fast recipe on EfficientNet-Lite0": recipe("fast", train_on="maps"),
    "linear FCN-8s on EfficientNet-Lite0": recipe("fast", hidden=0, stride=8, train_on="maps", pixels=4096),
    "lecture's network on VGG16": recipe(decoder="lecture", encoder="vgg16", encoder_weights="none", batch=2),
}

CHAIN = (
    "in the loop, full loss",
    "in the loop, sampled loss",
    "bfloat16 in the loop",
    "cache, sampled loss",
    "memory, sampled loss",
    "points",
)
"""Each but the first differs from the one before by one step; the factors of the steps multiply to the whole."""

STEPS = ("sampled loss", "bfloat16", "encoder out of the loop", "maps held in memory", "points for maps")

FACTORS = {
    "whole: in the loop, full loss / cache, sampled loss": ("in the loop, full loss", "cache, sampled loss"),
    "whole with extraction spread over the epochs": ("in the loop, full loss", "with extraction"),
    "whole with extraction in bfloat16": ("in the loop, full loss", "with extraction, bfloat16"),
    "encoder out of the loop (full loss)": ("in the loop, full loss", "cache, full loss"),
    "sampled loss (from the cache)": ("cache, full loss", "cache, sampled loss"),
    "bfloat16 (in the loop)": ("in the loop, sampled loss", "bfloat16 in the loop"),
    "bfloat16 (extraction)": ("extraction, float32", "extraction, bfloat16"),
    "left to gain: cache, sampled loss / decoder alone": ("cache, sampled loss", "decoder alone"),
    "left to gain: memory, sampled loss / decoder alone": ("memory, sampled loss", "decoder alone"),
}


def timed(work: Callable[[], object]) -> np.ndarray:
    """Seconds that a call takes: on the clock, and of the processor."""
    start = now()
    work()
    return now() - start


class Bench:
    """The variants of one network on a few images of a data set."""

    def __init__(self, config: TrainConfig, dataset: Dataset, images: int, folder: Path) -> None:
        self.config = config
        split = dataset.split("train")
        self.split = replace(split, samples=split.samples[:images])
        self.images = len(self.split)
        self.sizes = list(check_dataset(self.split).sizes)
        torch.manual_seed(0)
        self.model = build_model(config, dataset.class_table)
        self.decoder: Decoder = self.model.decoder.train()
        self.optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=1e-4, fused=False, foreach=False)
        self.folder = folder
        self.cache = FeatureCache(folder / "cache")
        self.held = self.maps("sampled", self.cache)

    def warm_up(self) -> None:
        """Fill the cache and the memory, and take first steps, which are slower than others."""
        self.epoch(self.held, "sampled")

    def variants(self) -> dict[str, Callable[[], np.ndarray]]:
        """Name each variant and give what runs it on all images once and returns its seconds."""
        variants = {
            "in the loop, full loss": lambda: self.epoch(self.maps("full", None), "full"),
            "in the loop, sampled loss": lambda: self.epoch(self.maps("sampled", None), "sampled"),
            "bfloat16 in the loop": self.in_bfloat16,
            "cache, full loss": lambda: self.epoch(self.maps("full", self.cache), "full"),
            "cache, sampled loss": lambda: self.epoch(self.maps("sampled", self.cache), "sampled"),
            "memory, sampled loss": lambda: self.epoch(self.held, "sampled"),
            "decoder alone": self.alone,
        }
        if self.decoder.reads_points:
            variants["points"] = self.points
        variants["extraction, float32"] = lambda: self.extraction(torch.float32)
        variants["extraction, bfloat16"] = lambda: self.extraction(torch.bfloat16)
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

    def epoch(self, batches: MapBatches | PointBatches, loss: str) -> np.ndarray:
        """Seconds of one epoch."""
        return timed(lambda: [self.step(batch, loss) for batch in batches.epoch(0)])

    def step(self, batch: object, loss: str) -> None:
        """Take a step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        step_loss(self.decoder, batch, "cross_entropy", None).backward()
        self.optimizer.step()

    def in_precision(self, precision: torch.dtype, work: Callable[[], object]) -> np.ndarray:
        """Seconds of some work with the encoder in a precision."""
        self.model.encoder.set_precision(precision).working_network()
        seconds = timed(work)
        self.model.encoder.set_precision(torch.float32).working_network()
        return seconds

    def in_bfloat16(self) -> np.ndarray:
        """The encoder in the loop in bfloat16."""
        return self.in_precision(torch.bfloat16, lambda: self.epoch(self.maps("sampled", None), "sampled"))

    def extraction(self, precision: torch.dtype) -> np.ndarray:
        """Compute the maps of all images and store them in a new cache."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            reader = FeatureReader(self.model.encoder, self.split, FeatureCache(Path(name)))
            items = [(sample, PLAIN) for sample in self.split]
            return self.in_precision(precision, lambda: [None for _ in reader.all_maps(items)])

    def alone(self) -> np.ndarray:
        """Steps on batches that are in memory."""
        batches = list(self.maps("sampled", self.cache).epoch(0))
        return timed(lambda: [self.step(batch, "sampled") for batch in batches])

    def points(self) -> np.ndarray:
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
    bench.warm_up()
    variants = bench.variants()
    seconds: dict[str, list[np.ndarray]] = {variant: [] for variant in variants}
    for turn in range(rounds):
        for variant, run in variants.items():
            seconds[variant].append(run() / bench.images)
            clock = seconds[variant][-1][0]
            print(f"{name}, round {turn + 1}: {variant} {clock:.4f}", file=sys.stderr, flush=True)
    medians = {variant: np.median(values, axis=0) for variant, values in seconds.items()}
    for suffix, precision in (("", "float32"), (", bfloat16", "bfloat16")):
        share = medians[f"extraction, {precision}"] / config.epochs
        medians[f"with extraction{suffix}"] = medians["cache, sampled loss"] + share
    return {
        "network": name,
        "images": bench.images,
        "epochs": config.epochs,
        "seconds_an_image": {variant: named(pair) for variant, pair in medians.items()},
        "steps": {step: named(pair) for step, pair in steps(medians).items()},
        "factors": {factor: named(medians[slow] / medians[fast]) for factor, (slow, fast) in FACTORS.items()},
    }


def steps(seconds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One factor for each step of the chain, as far as the network goes it, and their product."""
    chain = [seconds[variant] for variant in CHAIN if variant in seconds]
    factors = {step: slow / fast for step, slow, fast in zip(STEPS, chain, chain[1:], strict=False)}
    return {**factors, "all steps": chain[0] / chain[-1]}


def show(result: Mapping[str, Any]) -> None:
    """Print a network's table."""
    print(
        f"\n{result['network']}: seconds an image and view; {result['images']} images, {result['epochs']} epochs"
    )
    print(f"  {'':52} clock  processor")
    for variant, by in result["seconds_an_image"].items():
        print(f"  {variant:50} {by['clock']:8.4f} {by['processor']:9.4f}")
    print("  one factor for each step")
    for step, by in result["steps"].items():
        print(f"  {step:50} x {by['clock']:6.1f} {by['processor']:9.1f}")
    print("  other factors")
    for factor, by in result["factors"].items():
        print(f"  {factor:50} x {by['clock']:6.1f} {by['processor']:9.1f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, nargs=3, default=(32, 32, 4), help="for each network")
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves the single steps out")
    parser.add_argument("--peer", action="store_true", help="compare epochs with a U-Net; installs it first")
    parser.add_argument("--peer-python", type=Path, help="of an environment that has the peer; implies --peer")
    parser.add_argument("--peer-batches", type=int, default=1, help="steps of the peer in a turn")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and print a table, or JSON."""
    options = arguments()
    set_threads(None)
    results, epochs = [], None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(options.data, tuple(options.ignore), folder / "data")
        for images, (network, config) in zip(options.images, NETWORKS.items(), strict=True):
            if options.rounds:
                results.append(measure(network, config, dataset, images, options.rounds, folder / network))
        if options.peer or options.peer_python:
            epochs = against_peer(dataset, options.peer_python, options.peer_batches, folder / "epochs")
    if options.json:
        print(json.dumps({"machine": machine(), "results": results, "epochs": epochs}))
        return
    print(json.dumps(machine()))
    for result in results:
        show(result)
    if epochs is None:
        print("\nnot compared with the peer (--peer does, and installs it first)")
    else:
        show_epochs(epochs)


if __name__ == "__main__":
    main()
