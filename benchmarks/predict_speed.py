"""Image file to mask file: each engine, against a U-Net and torchvision's FCN-ResNet-50, in one process by turns.

    python benchmarks/predict_speed.py fast=FAST/best.safetensors default=RUN/best.safetensors --data DATA
    python benchmarks/predict_speed.py fast=FAST/best.safetensors --sizes 360x480 --rounds 7 --no-vgg

Models are given with a name for the table, which shows the mean IoU that they had on the val images of their
training. `--data` calibrates int8. The peers run as their users run them: eager, float32, padded, interpolated to
full size, argmax; segmentation_models_pytorch's U-Net on EfficientNet-Lite0, torchvision's fcn_resnet50, random
weights. "Network" is what lies between the prepared (normalised, padded) image and the logits, in an exported
network also the preparation; "pixels to mask" is all that happens in memory; "file to file" has reading a PNG and
writing one, too. Times are medians of rounds in which all systems take turns, a few runs each; `x` says how many
times faster than the U-Net and than fcn_resnet50.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from fullyconv.sizes import pad_to_multiple, resize_by
from fullyconv.synthetic import draw_sample

PEERS = ("U-Net, EfficientNet-Lite0", "torchvision fcn_resnet50")
CLASSES = 11
MATRIX = 2048
RUNS = 4

MEASURED = ("network", "pixels to mask", "file to file")


@dataclass(frozen=True)
class System:
    """What takes part.

    Attributes:
        prepare: Pixels to what the network is given.
        network: From there to logits.
        predict: Pixels to mask.
        score: The val mean IoU that it has, if it is trained.
    """

    prepare: Callable[[np.ndarray], Any]
    network: Callable[[Any], Any]
    predict: Callable[[np.ndarray], np.ndarray]
    score: float | None = None


def peers() -> dict[str, System]:
    """The two networks, as their users run them."""
    toolkit = import_toolkit()
    import torchvision  # noqa: PLC0415 - after the operations that it lacks here

    unet = toolkit.Unet(ENCODER, encoder_weights=None, classes=CLASSES).eval()
    resnet = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES
    ).eval()

    def padded(pixels: np.ndarray, multiple: int) -> Tensor:
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        height, width = pixels.shape[:2]
        return functional.pad((images - mean) / std, (0, -width % multiple, 0, -height % multiple))

    def system(network: Callable[[Tensor], Tensor], multiple: int) -> System:
        @torch.inference_mode()
        def predict(pixels: np.ndarray) -> np.ndarray:
            height, width = pixels.shape[:2]
            return network(padded(pixels, multiple))[0, :, :height, :width].argmax(0).byte().numpy()

        return System(lambda pixels: padded(pixels, multiple), torch.inference_mode()(network), predict)

    # The latter interpolates by itself, to any size.
    found = system(unet, 32), system(lambda images: resnet(images)["out"], 1)
    return dict(zip(PEERS, found, strict=True))


def in_torch(predictor: Predictor, score: float) -> System:
    """A model as torch runs it."""
    model = predictor.model

    def prepare(pixels: np.ndarray) -> tuple[list[Tensor], tuple[int, int]]:
        """What `Encoder.forward` does before the network."""
        encoder, images = model.encoder, torch.from_numpy(pixels).permute(2, 0, 1)[None]
        normalised = encoder.normalise(images.contiguous().to(encoder.mean.dtype))
        scaled = (resize_by(normalised, scale).to(encoder.precision) for scale in encoder.scales)
        padded = (pad_to_multiple(maps, encoder.stride_grid) for maps in scaled)
        return [maps.contiguous(memory_format=torch.channels_last) for maps in padded], pixels.shape[:2]

    @torch.no_grad()
    def network(prepared: tuple[list[Tensor], tuple[int, int]]) -> Tensor:
        encoder, (images, size) = model.encoder, prepared
        features = (encoder.working_network()(scaled, encoder.strides) for scaled in images)
        return model.logits([maps.float() for maps in itertools.chain(*features)], size)

    return System(prepare, network, predictor.predict, score)


def exported(predictor: Predictor, score: float) -> System:
    """A model as another engine runs it."""
    return System(lambda pixels: pixels, predictor.logits, predictor.predict, score)


def engines(name: str, path: Path, data: Dataset | None, folder: Path) -> dict[str, System]:
    """Every engine of a model; int8 where there is data to calibrate on."""
    plain = Predictor(path, device="cpu", precision="float32")
    score = plain.training_record["val_mean_iou"]
    found = {
        f"{name}, torch float32": in_torch(plain, score),
        f"{name}, default engine": in_torch(Predictor(path, device="cpu"), score),
        f"{name}, onnx": exported(open_predictor(path, engine="onnx"), score),
        f"{name}, openvino": exported(open_predictor(path, engine="openvino"), score),
    }
    if data is not None:
        file = folder / f"{name}.openvino"
        comparison = export_model(plain, file, int8=True, data=data)
        found[f"{name}, openvino int8"] = exported(open_exported(file), comparison.mean_iou[1])
    return found


def by_turns(systems: dict[str, System], image: Path, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Medians of the seconds of each system, for each of `MEASURED`."""
    pixels = read_image(image)
    colors = {value: (value, value, value) for value in range(CLASSES)}
    times: dict[str, dict[str, list[float]]] = {name: {what: [] for what in MEASURED} for name in systems}
    runs = 1 if pixels.size > 3e6 else RUNS
    for turn, (name, system) in itertools.product(range(rounds + 1), systems.items()):
        prepared = system.prepare(pixels)
        mask = folder / f"{name}.png"
        for run in range(runs + 1):  # the first one warms up, after the threads of another library
            began = time.perf_counter()
            system.network(prepared)
            network = time.perf_counter() - began
            if turn and run:
                times[name]["network"].append(network)
        for run in range(runs + 1):
            began = time.perf_counter()
            loaded = read_image(image)
            read = time.perf_counter()
            found = system.predict(loaded)
            computed = time.perf_counter()
            write_mask(mask, found, colors)
            ended = time.perf_counter()
            assert found.shape == pixels.shape[:2]
            mask.unlink()
            if turn and run:
                times[name]["pixels to mask"].append(computed - read)
                times[name]["file to file"].append(ended - began)
    return {
        name: {what: statistics.median(seconds) for what, seconds in found.items()}
        for name, found in times.items()
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


def table(size: str, times: dict[str, dict[str, float]], systems: dict[str, System]) -> list[str]:
    """The rows of one size."""
    rows = [
        f"## {size}",
        "",
        f"| system | val mean IoU | {' | '.join(f'{what} | x U-Net | x fcn' for what in MEASURED)} |",
        "|---|---|" + "---|---|---|" * len(MEASURED),
    ]
    for name, found in times.items():
        score = systems[name].score
        cells = [name, f"{score:.3f}" if score is not None else "random weights"]
        for what in MEASURED:
            cells.append(f"{found[what] * 1000:.1f} ms")
            cells += [f"{times[peer][what] / found[what]:.1f}" for peer in PEERS]
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
        systems = peers()
        for given in arguments.models:
            title, path = given.split("=", 1)
            classes = Predictor(path, device="cpu").class_table
            data = Dataset.open(arguments.data, class_table=classes) if arguments.data else None
            systems |= engines(title, Path(path), data, folder)
        for size in arguments.sizes:
            height, width = map(int, size.split("x"))
            source = read_image(arguments.image) if arguments.image else draw_sample((height, width), 0)[0]
            repeats = (-(-height // source.shape[0]), -(-width // source.shape[1]), 1)
            pixels = np.tile(source, repeats)[:height, :width]
            Image.fromarray(pixels).save(folder / f"{size}.png")
            rounds = arguments.rounds if height * width < 1e6 else max(arguments.rounds // 3, 1)
            results[size] = by_turns(systems, folder / f"{size}.png", rounds, folder)
            lines += table(size, results[size], systems)
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
