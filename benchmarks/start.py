"""What the start of the encoder is worth: random, an autoencoder trained on the same images, or ImageNet.

    python benchmarks/start.py ../shared/data/camvid:11 ../shared/data/magnetic_tile ../shared/data/dsb2018_nuclei

For each data set an autoencoder (preset photo) learns from all its train images, without masks. Then the same
decoder learns, with the same settings, from 5, 20 and all labelled train images on three fixed encoders: the
autoencoder's form with random weights, the autoencoder, and EfficientNet-Lite0. Measured is the mean IoU of the
last epoch on val images. A number behind a colon is a mask value to ignore.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _machine import machine

from fullyconv.config import PretrainConfig, TrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.feature_cache import FeatureCache
from fullyconv.pretrain import pretrain
from fullyconv.progress import Console
from fullyconv.train import train


def part(dataset: Dataset, count: int, val: int, seed: int) -> Dataset:
    """Keep some train images, drawn so that fewer are among more, and some val images, spread over all."""
    samples = {name: list(dataset.split(name)) for name in ("train", "val")}
    order = np.random.default_rng(seed).permutation(len(samples["train"]))
    kept = {samples["train"][index].id for index in order[:count]}
    places = np.linspace(0, len(samples["val"]) - 1, min(val, len(samples["val"]))).round()
    kept |= {samples["val"][int(place)].id for place in places}
    return replace(dataset, samples=tuple(sample for sample in dataset if sample.id in kept))


def settings(seed: int, steps: int) -> TrainConfig:
    """The fast recipe without mirror images; an image a step, so that few images are not measured too often."""
    return recipe("fast", mirror=False, batch=1, pixels=2048, epochs=1, steps=steps, patience=0, seed=seed)


def measure(
    source: str, arguments: argparse.Namespace, folder: Path, progress: Console
) -> list[dict[str, object]]:
    """Train on one data set from all starts."""
    root, _, ignored = source.partition(":")
    dataset = Dataset.open(Path(root), ignore=[int(ignored)] if ignored else [])
    began = time.perf_counter()
    images = [sample.image for sample in dataset.split("train")]
    config = PretrainConfig(steps=arguments.cae_steps, epochs=1, batch=arguments.cae_batch)
    pretrained = pretrain(images, folder / "cae", config, progress=progress)
    seconds = time.perf_counter() - began
    starts = {
        "random": {"encoder": f"cae:{pretrained.cae}", "encoder_weights": "none"},
        "cae": {"encoder": f"cae:{pretrained.cae}"},
        "efficientnet_lite0": {"encoder": "efficientnet_lite0"},
    }
    cache = FeatureCache(folder / "features")
    rows = []
    total = len(images)
    for count in (*(count for count in arguments.images if count < total), total):
        for start, encoder in starts.items():
            values = []
            for seed in range(arguments.seeds):
                some = part(dataset, count, arguments.val, seed)
                run = folder / f"{start}-{count}-{seed}"
                config = replace(settings(seed, arguments.steps), **encoder)
                values.append(train(some, run, config, cache=cache).history[-1]["mean_iou"])
            rows.append({"data": Path(root).name, "images": count, "start": start, "mean_iou": values})
            progress.say(json.dumps(rows[-1]))
    rows.append({"data": Path(root).name, "cae_mse": pretrained.val_mse, "cae_seconds": round(seconds)})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data sets with train and val splits")
    parser.add_argument("--images", type=int, nargs="*", default=[5, 20], help="besides all")
    parser.add_argument("--val", type=int, default=20, help="val images to measure on")
    parser.add_argument("--steps", type=int, default=150, help="at least so many, of the decoder")
    parser.add_argument("--cae-steps", type=int, default=100)
    parser.add_argument("--cae-batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = {"machine": machine(), "settings": {**vars(arguments)}, "rows": []}
    for source in arguments.data:
        with tempfile.TemporaryDirectory() as name:
            result["rows"] += measure(source, arguments, Path(name), Console())
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{'data':20} {'images':>6} {'random':>8} {'cae':>8} {'lite0':>8}")
    found = {
        (row["data"], row["images"], row["start"]): np.mean(row["mean_iou"])
        for row in result["rows"]
        if "start" in row
    }
    for data, count in dict.fromkeys(key[:2] for key in found):
        shown = [f"{found[data, count, start]:8.3f}" for start in ("random", "cae", "efficientnet_lite0")]
        print(f"{data:20} {count:6} {' '.join(shown)}")


if __name__ == "__main__":
    main()
