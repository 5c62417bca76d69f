"""The mask from logits: blocks on borders between classes only, against interpolating and comparing every pixel.

    python benchmarks/upsample.py
    python benchmarks/upsample.py --model RUN/best.safetensors --data ../shared/data/camvid

Logits are noise, smooth (made at an eighth of their own resolution and enlarged: regions, as networks give them)
or white; with `--model` and `--data` also real ones, those of val images side by side. The three ways take turns:

    interpolate, argmax    what others do: all full-size logits, then their argmax
    every pixel            the same result row by row, without full-size logits: the fallback
    blocks                 `fullyconv.upsample.predict_mask`

Memory is what tensors made on the way hold at their peak, the mask itself left out. Pixels that differ are counted
against the first way, and so are those of them whose two best logits lie within 4 units of float32's last place.

A second table has the margin, the best logit less the second best: `upsample_logits(...).topk(2)` against
`fullyconv.margin.predict_margin`.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from _machine import machine
from torch import Tensor
from torch.nn import functional

from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.margin import predict_margin
from fullyconv.memory import peak_bytes
from fullyconv.predict import Predictor
from fullyconv.upsample import _first_maximum, fill_every_pixel, pixel_logits, predict_mask, upsample_logits

CASES = [(11, 4), (21, 4), (21, 8), (150, 8)]
"""Classes and output strides."""

MARGIN_CASES = [(21, 4), (21, 8), (150, 8)]
"""Of those, where margins are measured."""


def interpolate_and_compare(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """What others do."""
    return upsample_logits(logits, stride, size).argmax(1)


def every_pixel(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The fallback of `predict_mask`."""
    mask = torch.empty((1, *size), dtype=torch.uint8)
    fill_every_pixel(mask[0], logits[0], stride, 0, size[0], _first_maximum)
    return mask


WAYS = {"interpolate, argmax": interpolate_and_compare, "every pixel": every_pixel, "blocks": predict_mask}


def interpolate_and_sort(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The margin as others would compute it."""
    best, second = upsample_logits(logits, stride, size).topk(2, 1).values.unbind(1)
    return best - second


def noise(kind: str, classes: int, height: int, width: int) -> Tensor:
    """Logits of one image."""
    draw = torch.Generator().manual_seed(0)
    if kind == "white noise":
        return torch.randn(1, classes, height, width, generator=draw)
    coarse = torch.randn(1, classes, height // 8 + 1, width // 8 + 1, generator=draw)
    return functional.interpolate(coarse, (height, width), mode="bilinear")


def real(model: Path, data: Path, height: int, width: int) -> tuple[Tensor, int]:
    """Logits of val images, side by side until they fill the size in cells; and their output stride."""
    predictor = Predictor(model)
    dataset = Dataset.open(data, class_table=predictor.class_table).split("val")
    stride = predictor.model.decoder.output_stride
    maps = [
        predictor.logits(predictor.pixels_of(sample.image))
        for sample in list(dataset)[:: max(1, len(dataset) // 24)]
    ]
    rows = []
    place = 0
    while sum(row.shape[2] for row in rows) < height:
        row = []
        while sum(cut.shape[3] for cut in row) < width:
            row.append(maps[place % len(maps)])
            place += 1
        rows.append(torch.cat(row, 3)[..., :width])
    return torch.cat(rows, 2)[:, :, :height].contiguous(), stride


def close(logits: Tensor, stride: int, different: Tensor) -> int:
    """Of the pixels that differ, those whose two best logits are equal within 4 units of the last place."""
    places = different[0].nonzero().T
    if not places.shape[1]:
        return 0
    best = pixel_logits(logits.double(), stride, places[:1], places[1:])[0].topk(2).values
    return int((best[:, 0] - best[:, 1] <= 4 * 2.0**-23 * logits.abs().max()).sum())


def measure(name: str, logits: Tensor, stride: int, rounds: int) -> dict[str, object]:
    """Time the ways in turn."""
    size = (logits.shape[2] * stride, logits.shape[3] * stride)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    masks = {}
    for _ in range(rounds):
        for way, compute in WAYS.items():
            begin = time.perf_counter()
            masks[way] = compute(logits, stride, size)
            seconds[way].append(time.perf_counter() - begin)
    different = masks["blocks"].long() != masks["interpolate, argmax"]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["interpolate, argmax"], seconds["blocks"], strict=True)]
    memory = {
        way: peak_bytes(lambda compute=compute: compute(logits, stride, size)) for way, compute in WAYS.items()
    }
    return {
        "logits": name,
        "classes": logits.shape[1],
        "stride": stride,
        "megapixels": math.prod(size) / 1e6,
        "seconds": medians,
        "times_faster": statistics.median(ratios),
        "memory": {
            way: held - math.prod(size) * (8 if way.endswith("argmax") else 1) for way, held in memory.items()
        },
        "different": int(different.sum()),
        "close": close(logits, stride, different),
    }


def measure_margin(name: str, logits: Tensor, stride: int, rounds: int) -> dict[str, object]:
    """Time the two ways to a margin in turn."""
    size = (logits.shape[2] * stride, logits.shape[3] * stride)
    ways = {"interpolate, topk": interpolate_and_sort, "blocks": predict_margin}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    margins = {}
    for _ in range(rounds):
        for way, compute in ways.items():
            begin = time.perf_counter()
            margins[way] = compute(logits, stride, size)
            seconds[way].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "logits": name,
        "classes": logits.shape[1],
        "stride": stride,
        "megapixels": math.prod(size) / 1e6,
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "times_faster": statistics.median(ratios),
        "largest_difference": float((margins["blocks"] - margins["interpolate, topk"]).abs().max()),
    }


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="take real logits, too")
    parser.add_argument("--data", type=Path, help="of the val images of this data set")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)

    def cells(stride: int) -> tuple[int, int]:
        height = math.sqrt(arguments.megapixels * 1e6 * 2 / 3)
        return round(height / stride), round(height * 1.5 / stride)

    rows = []
    if arguments.model:
        _, stride = real(arguments.model, arguments.data, 1, 1)
        logits, stride = real(arguments.model, arguments.data, *cells(stride))
        rows.append(measure("real", logits, stride, arguments.rounds))
    for kind in ("smooth noise", "white noise"):
        for classes, stride in CASES:
            rows.append(measure(kind, noise(kind, classes, *cells(stride)), stride, arguments.rounds))
    margins = [
        measure_margin(kind, noise(kind, classes, *cells(stride)), stride, arguments.rounds)
        for kind in ("smooth noise", "white noise")
        for classes, stride in MARGIN_CASES
    ]
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows, "margins": margins}))
        return
    print(json.dumps(machine()))
    print(
        f"{'logits':13} classes stride  MP  argmax s  every pixel s  blocks s  faster x  memory MB  differ (close)"
    )
    for row in rows:
        seconds, memory = row["seconds"], row["memory"]
        print(
            f"{row['logits']:13} {row['classes']:7} {row['stride']:6} {row['megapixels']:4.0f} "
            f"{seconds['interpolate, argmax']:8.2f} {seconds['every pixel']:14.2f} {seconds['blocks']:9.3f} "
            f"{row['times_faster']:9.1f} {memory['blocks'] / 1e6:10.0f}  {row['different']} ({row['close']})"
        )
    print(f"\n{'logits':13} classes stride  MP  topk s  margin s  faster x  largest difference")
    for row in margins:
        slow, fast = row["seconds"].values()
        print(
            f"{row['logits']:13} {row['classes']:7} {row['stride']:6} {row['megapixels']:4.0f} {slow:6.2f} "
            f"{fast:9.3f} {row['times_faster']:9.1f}  {row['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
