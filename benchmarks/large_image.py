"""Large images from file to file: megapixels a second, peak memory; and a run that is killed.

    python benchmarks/large_image.py --model RUN/best.safetensors --image PHOTO.png
    python benchmarks/large_image.py --sides 1000 5000 --kinds tif

Each image is `--image` (by default a drawn one) side by side until it fills the size, as tiled TIFF and PNG.
Each is predicted by a process of its own, as `fullyconv predict --no-overlay` does it. Time is counted from when
the model is loaded and has predicted a small image to when the mask is there; memory is the largest resident set
of the process, libraries and model included. Without `--model`, the fast recipe's network with an untrained
decoder is run, which takes as long.

At last, a run on the largest image is killed (SIGKILL) halfway, and the files that it left are counted.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from _machine import machine, write_results
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.cli import _keep_freed_memory
from fullyconv.config import recipe
from fullyconv.image_files import find_images
from fullyconv.model import build_model
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.synthetic import write_dataset


def draw(folder: Path) -> np.ndarray:
    """A drawn photograph."""
    write_dataset(folder, train=1, val=1, test=0, size=(720, 960), seed=0)
    return np.asarray(Image.open(next((folder / "images").rglob("*.png"))).convert("RGB"))


def write_images(tile: np.ndarray, side: int, kinds: list[str], folder: Path) -> dict[str, Path]:
    """Fill a square with an image, and save it."""
    repeats = (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1)
    pixels = np.ascontiguousarray(np.tile(tile, repeats)[:side, :side])
    paths = {kind: folder / f"{side}.{kind}" for kind in kinds}
    if "tif" in paths:
        tifffile.imwrite(paths["tif"], pixels, tile=(512, 512), compression="zlib", photometric="rgb")
    if "png" in paths:
        Image.fromarray(pixels).save(paths["png"], compress_level=1)
    return paths


def predict_one(model: Path, path: Path, out: Path) -> None:
    """What the process of one image does: prints seconds and bytes."""
    _keep_freed_memory()
    predictor = Predictor(model)
    predictor.predict(np.zeros((256, 256, 3), np.uint8))
    predictor.bytes_per_pixel  # noqa: B018 - measured once, when it is asked for
    print("loaded", flush=True)
    began = time.perf_counter()
    predict_files(predictor, find_images([path]), out, overlay=False)
    seconds = time.perf_counter() - began
    # Not getrusage, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(json.dumps({"seconds": seconds, "bytes": 1024 * int(status.split("VmHWM:")[1].split()[0])}))


def started(model: Path, path: Path, out: Path) -> subprocess.Popen[str]:
    """Start the process of one image."""
    command = [sys.executable, __file__, "--predict", str(model), str(path), str(out)]
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}  # as `fullyconv` sets them
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**quiet, **os.environ})


def measured(model: Path, path: Path, folder: Path) -> dict[str, float]:
    """Seconds and bytes of one image."""
    with tempfile.TemporaryDirectory(dir=folder) as out, started(model, path, Path(out)) as process:
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{path} failed")
        return json.loads(output.splitlines()[-1])


def killed(model: Path, path: Path, folder: Path, seconds: float) -> list[str]:
    """What a run leaves that is killed so many seconds after it has loaded the model."""
    with tempfile.TemporaryDirectory(dir=folder) as out, started(model, path, Path(out)) as process:
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return sorted(file.name for file in Path(out).iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[1_000, 5_000, 10_000, 20_000])
    parser.add_argument("--kinds", nargs="+", choices=["tif", "png"], default=["tif", "png"])
    parser.add_argument("--name", default="large-image", help="of the result file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--predict", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.predict:
        predict_one(*arguments.predict)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or folder / "model.safetensors"
        if arguments.model is None:
            save_model(build_model(recipe("fast"), ClassTable.from_values(range(11))), model)
        tile = (
            np.asarray(Image.open(arguments.image).convert("RGB")) if arguments.image else draw(folder / "drawn")
        )
        rows, left = [], []
        for side in arguments.sides:
            for kind, path in write_images(tile, side, arguments.kinds, folder).items():
                found = measured(model, path, folder)
                rows.append({"side": side, "kind": kind, "megapixels": side**2 / 1e6, **found})
                if not arguments.json:
                    print(line(rows[-1]), flush=True)
                if side == arguments.sides[-1] and kind == arguments.kinds[0]:
                    left = killed(model, path, folder, found["seconds"] / 2)
                path.unlink()
    if arguments.json:
        print(json.dumps({**machine(), "rows": rows, "left_by_a_killed_run": left}))
        return
    table = ["| image | MP/s | seconds | peak memory |", "|---|---|---|---|", *map(line, rows)]
    hidden = [file for file in left if not file.startswith(".")]
    words = f"Killed halfway through the largest: {len(hidden)} files, and {len(left)} temporary ones left behind."
    print(words)
    print(write_results(arguments.name, [str(arguments.model or "untrained fast recipe"), "", *table, "", words]))


def line(row: dict[str, float]) -> str:
    """A row of the table."""
    return (
        f"| {row['side']} x {row['side']} {row['kind']} | {row['megapixels'] / row['seconds']:.2f} | "
        f"{row['seconds']:.1f} | {row['bytes'] / 2**30:.2f} GiB |"
    )


if __name__ == "__main__":
    main()
