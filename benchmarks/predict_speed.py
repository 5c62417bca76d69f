"""Image file to mask file: each engine, against a U-Net and torchvision's FCN-ResNet-50, in one process by turns.

    python benchmarks/predict_speed.py fast=FAST/best.safetensors default=RUN/best.safetensors --data DATA
    python benchmarks/predict_speed.py fast=FAST/best.safetensors --sizes 360x480 --rounds 7 --no-vgg

Models are given with a name for the table, which shows the mean IoU that they had on the val images of their
training. `--data` calibrates int8. The peers run as their users run them: eager, float32, padded, interpolated to
full size, argmax; segmentation_models_pytorch's U-Net on EfficientNet-Lite0, torchvision's fcn_resnet50, random
weights. "Network" is what lies between pixels in memory and the mask in memory; "file to file" has reading a PNG
and writing one, too. Times are medians of rounds in which all systems take turns, a few runs each; `x` says how
many times faster.

At last VGG16 FCN-8s, eager in float32 and as the default engine runs it, and which share of the processor's
measured rate of matrix products that is.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `fullyconv` sets them

import numpy as np
import torch
from _machine import machine, write_results
from _peer import ENCODER, import_toolkit
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.choose_engine import open_predictor
from fullyconv.class_table import ClassTable
from fullyconv.cli import _keep_freed_memory
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.engines import open_exported
from fullyconv.export import export_model
from fullyconv.images import read_image, write_mask
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.synthetic import draw_sample

PEERS = ("U-Net, EfficientNet-Lite0", "torchvision fcn_resnet50")
CLASSES = 11
MATRIX = 2048
RUNS = 4

System = Callable[[np.ndarray], np.ndarray]
"""Pixels to mask."""


def peers() -> dict[str, System]:
    """The two networks, as their users run them."""
    toolkit = import_toolkit()
    import torchvision  # noqa: PLC0415 - after the operations that it lacks here

    unet = toolkit.Unet(ENCODER, encoder_weights=None, classes=CLASSES).eval()
    resnet = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES
    ).eval()

    def padded(pixels: np.ndarray) -> Tensor:
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (images - mean) / std

    @torch.inference_mode()
    def run_unet(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        images = functional.pad(padded(pixels), (0, -width % 32, 0, -height % 32))
        return unet(images)[0, :, :height, :width].argmax(0).byte().numpy()

    @torch.inference_mode()
    def run_resnet(pixels: np.ndarray) -> np.ndarray:
        return resnet(padded(pixels))["out"][0].argmax(0).byte().numpy()  # it interpolates by itself

    return dict(zip(PEERS, (run_unet, run_resnet), strict=True))


def engines(name: str, path: Path, data: Dataset | None, folder: Path) -> dict[str, tuple[System, float | None]]:
    """Every engine of a model, with its val mean IoU; int8 where there is data to calibrate on."""
    plain = Predictor(path, device="cpu", precision="float32")
    score = plain.training_record["val_mean_iou"]
    found = {
        f"{name}, torch float32": (plain.predict, score),
        f"{name}, default engine": (Predictor(path, device="cpu").predict, score),
        f"{name}, onnx": (open_predictor(path, engine="onnx").predict, score),
        f"{name}, openvino": (open_predictor(path, engine="openvino").predict, score),
    }
    if data is not None:
        file = folder / f"{name}.openvino"
        comparison = export_model(plain, file, int8=True, data=data)
        found[f"{name}, openvino int8"] = (open_exported(file).predict, comparison.mean_iou[1])
    return found


def by_turns(systems: dict[str, System], image: Path, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Medians of the seconds of each system: network, and file to file."""
    pixels = read_image(image)
    colors = {value: (value, value, value) for value in range(CLASSES)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    runs = 1 if pixels.size > 3e6 else RUNS
    for turn, (name, system) in itertools.product(range(rounds + 1), systems.items()):
        for run in range(runs + 1):  # the first one warms up, after the threads of another library
            mask = folder / f"{name}.png"
            began = time.perf_counter()
            loaded = read_image(image)
            read = time.perf_counter()
            found = system(loaded)
            computed = time.perf_counter()
            write_mask(mask, found, colors)
            ended = time.perf_counter()
            assert found.shape == pixels.shape[:2]
            mask.unlink()
            if turn and run:
                times[name].append((computed - read, ended - began))
    return {
        name: {
            what: statistics.median(pair[place] for pair in pairs)
            for place, what in enumerate(("network", "file"))
        }
        for name, pairs in times.items()
    }


def matrix_rate(precision: torch.dtype) -> float:
    """Floating point operations a second of a product of two large matrices."""
    left, right = (torch.randn(MATRIX, MATRIX).to(precision) for _ in range(2))
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * MATRIX**3 / min(seconds)


def vgg(pixels: np.ndarray, rounds: int) -> dict[str, float]:
    """VGG16 FCN-8s (random weights, no fc6): seconds, and its share of the rate of matrix products."""
    model = FCN.build(
        ClassTable.from_values(range(CLASSES)), encoder="vgg16", encoder_weights="none", decoder="fcn", fc=False
    ).eval()
    counter = FlopCounterMode(display=False)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]

    @torch.no_grad()
    def eager() -> Tensor:
        """The same network as its layers stand: nothing folded, no channels-last."""
        encoder = model.encoder
        height, width = pixels.shape[:2]
        padded = functional.pad(encoder.normalise(images.float()), (0, -width % 32, 0, -height % 32))
        logits = model.decoder(encoder.network(padded, encoder.strides), (height, width))
        return functional.interpolate(logits, scale_factor=8, mode="bilinear")[..., :height, :width].argmax(1)

    with counter:
        eager()
    predictor = Predictor(model, device="cpu")
    times: dict[str, list[float]] = {"eager": [], "default": []}
    for turn in range(rounds + 1):
        for name, run in (("eager", eager), ("default", lambda: predictor.predict(pixels))):
            began = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    precision = predictor.model.encoder.precision
    return {
        "eager_seconds": seconds["eager"],
        "default_seconds": seconds["default"],
        "precision": str(precision).removeprefix("torch."),
        "gflop": counter.get_total_flops() / 1e9,
        "share_of_matrix_rate": counter.get_total_flops() / seconds["default"] / matrix_rate(precision),
    }


def table(size: str, times: dict[str, dict[str, float]], scores: dict[str, float | None]) -> list[str]:
    """The rows of one size."""
    unet, resnet = (times[name] for name in PEERS)
    rows = [
        f"## {size}",
        "",
        "| system | val mean IoU | network | x U-Net | x fcn_resnet50 | file to file | x U-Net | x fcn_resnet50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in times.items():
        score = scores.get(name)
        cells = [name, f"{score:.3f}" if score is not None else "random weights"]
        for what in ("network", "file"):
            cells.append(f"{found[what] * 1000:.1f} ms")
            cells += [f"{peer[what] / found[what]:.1f}" for peer in (unet, resnet)]
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL")
    parser.add_argument("--data", type=Path, help="to calibrate int8 on")
    parser.add_argument("--sizes", nargs="+", default=["360x480", "1536x2048"], help="height x width")
    parser.add_argument("--rounds", type=int, default=9, help="of sizes below a megapixel; a third of larger ones")
    parser.add_argument("--image", type=Path, help="cut to the sizes; drawn by default")
    parser.add_argument("--no-vgg", dest="vgg", action="store_false")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)
    _keep_freed_memory()
    results, lines = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        systems, scores = peers(), {}
        for given in arguments.models:
            title, path = given.split("=", 1)
            classes = Predictor(path, device="cpu").class_table
            data = Dataset.open(arguments.data, class_table=classes) if arguments.data else None
            for label, (system, score) in engines(title, Path(path), data, folder).items():
                systems[label], scores[label] = system, score
        for size in arguments.sizes:
            height, width = map(int, size.split("x"))
            source = read_image(arguments.image) if arguments.image else draw_sample((height, width), 0)[0]
            repeats = (-(-height // source.shape[0]), -(-width // source.shape[1]), 1)
            pixels = np.tile(source, repeats)[:height, :width]
            Image.fromarray(pixels).save(folder / f"{size}.png")
            rounds = arguments.rounds if height * width < 1e6 else max(arguments.rounds // 3, 1)
            results[size] = by_turns(systems, folder / f"{size}.png", rounds, folder)
            lines += table(size, results[size], scores)
            if not arguments.json:
                print("\n".join(lines[-len(systems) - 5 :]), flush=True)
        if arguments.vgg:
            results["vgg16_fcn8s"] = found = vgg(draw_sample((360, 480), 0)[0], max(arguments.rounds // 3, 1))
            lines.append(
                f"VGG16 FCN-8s, 360x480: eager float32 {found['eager_seconds'] * 1000:.0f} ms, default engine "
                f"({found['precision']}) {found['default_seconds'] * 1000:.0f} ms: "
                f"{found['eager_seconds'] / found['default_seconds']:.1f} times faster, "
                f"{found['share_of_matrix_rate']:.0%} of the measured rate of matrix products in that precision."
            )
    if arguments.json:
        print(json.dumps({**machine(), "seconds": results}))
        return
    print(lines[-1])
    print(write_results("predict-speed", lines))


if __name__ == "__main__":
    main()
