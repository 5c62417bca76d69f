"""Images a second by one process, one worker and two on this machine; kills; a huge image in bands; memory.

    python benchmarks/cluster.py --model RUN/best.safetensors --data IMAGES
    python benchmarks/cluster.py --images 100 --kills 0 --side 0

Each image is a part of 480 x 360 of one of `--data` (by default of drawn ones), no two alike. One process with one
thread and with all of them, one worker and two take turns, `--rounds` times; the best round of each counts. Time
is that of the images and of loading the model in each worker: Ray starts once a command, which is told apart.

Then workers of two are killed (SIGKILL) at random moments of the same job, and the outputs compared with those of
one process. A square TIFF of `--side` pixels is predicted whole and in bands. Memory is the sum of the
proportional set sizes of what Ray starts, and that of the largest worker.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile
from _machine import machine, write_results
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.model import build_model
from fullyconv.model_file import save_model
from fullyconv.synthetic import write_dataset

SIZE = 360, 480
PROGRAM = [sys.executable, "-m", "fullyconv", "predict"]


def write_images(data: Path | None, count: int, folder: Path) -> None:
    """Cut so many images out of photographs, or drawn ones."""
    if data is None:
        write_dataset(folder / "drawn", train=4, val=1, test=0, size=(720, 960), seed=0)
        data = folder / "drawn" / "images"
    photographs = [
        np.asarray(Image.open(path).convert("RGB"))
        for path in sorted(path for path in data.rglob("*") if path.suffix in (".png", ".jpg"))[:50]
    ]
    draw = np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        wide = np.pad(photograph, ((0, SIZE[0]), (0, SIZE[1]), (0, 0)), mode="reflect")
        top, left = (int(draw.integers(0, side)) for side in photograph.shape[:2])
        part = wide[top : top + SIZE[0], left : left + SIZE[1]]
        Image.fromarray(part).save(folder / "in" / f"{number:05d}.png")


def predict(folder: Path, inputs: str, out: str, *words: str) -> tuple[float, str]:
    """Run the command to its end; seconds and what it said."""
    began = time.perf_counter()
    command = [*PROGRAM, "model.safetensors", inputs, "-o", out, "--no-overlay", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, done.stderr


def masks(out: Path) -> dict[str, bytes]:
    """Name and content of the masks."""
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def rates(folder: Path, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of each way, its best round; and where there are workers, seconds of an image in one."""
    ways = {
        "one process, 1 thread": ["--threads", "1"],
        "one process, all threads": [],
        "1 worker": ["--cluster", "local", "--workers", "1"],
        "2 workers": ["--cluster", "local", "--workers", "2"],
    }
    write_one(folder)
    found: dict[str, dict[str, float]] = {way: {"rate": 0.0} for way in ways}
    for number in range(rounds):
        for way, words in ways.items():
            out = f"{way.replace(' ', '-')}-{number}"
            seconds, said = predict(folder, "in", out, *words)
            if "--cluster" in words:
                rate = float(re.search(r"([\d.e+]+) images/s", said)[1])
                lines = (folder / out / "manifest.jsonl").read_text().splitlines()
                inside = [json.loads(line)["seconds"] for line in lines]
                row = {"rate": rate, "inside": float(np.median(inside)), "starting": seconds - images / rate}
            else:
                start = predict(folder, "one", f"start-{out}", *words)[0]
                row = {"rate": (images - 1) / (seconds - start), "starting": start}
            if row["rate"] > found[way]["rate"]:
                found[way] = row
            assert masks(folder / out) == masks(folder / "one-process,-1-thread-0") or way.endswith("all threads")
    first, threads = (masks(folder / f"one-process,-{name}-0") for name in ("1-thread", "all-threads"))
    found["one process, all threads"]["other masks"] = sum(first[name] != threads[name] for name in first)
    return found


def write_one(folder: Path) -> None:
    """A folder of one image, for the time of starting."""
    (folder / "one").mkdir()
    first = min((folder / "in").iterdir())
    (folder / "one" / first.name).write_bytes(first.read_bytes())


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """The workers that live."""
    return [process for process in driver.children(recursive=True) if "PredictWorker" in name_of(process)]


def name_of(process: psutil.Process) -> str:
    """The command line of a process; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def killed(folder: Path, images: int, kills: int) -> dict[str, float]:
    """Kill workers of a job on all images; what is missing, there twice, or different; and its memory midway."""
    whole = masks(folder / "one-process,-1-thread-0")
    chance = random.Random(0)
    command = [*PROGRAM, "model.safetensors", "in", "-o", "killed", "--no-overlay", "--cluster", "local"]
    memory: dict[str, float] = {}
    out = folder / "killed"
    began = time.perf_counter()
    with subprocess.Popen([*command, "--workers", "2"], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        driver = psutil.Process(process.pid)
        for number in range(kills):
            while process.poll() is None and sum(1 for _ in out.glob("*.png")) <= images * number // kills:
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 1))
            while process.poll() is None and not (living := workers_of(driver)):
                time.sleep(0.1)
            if process.poll() is not None:
                raise SystemExit(f"ended after {number} kills: {process.stderr.read()}")
            memory = memory or memory_of(driver)
            chance.choice(living).kill()
        process.communicate()
    found, lines = masks(out), (out / "manifest.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    return {
        "kills": kills,
        "images": images,
        "exit": process.returncode,
        "missing": len(whole.keys() - found.keys()),
        "duplicate": len(keys) - len(set(keys)) + len(found.keys() - whole.keys()),
        "different": sum(found[name] != whole[name] for name in found.keys() & whole.keys()),
        "seconds": time.perf_counter() - began,
        **memory,
    }


def memory_of(driver: psutil.Process) -> dict[str, float]:
    """Proportional set sizes in MB: of a worker, of the driver, and of all else that Ray has started."""
    found = {"worker": 0.0, "driver": driver.memory_full_info().pss / 2**20, "ray": 0.0}
    for process in driver.children(recursive=True):
        try:
            size = process.memory_full_info().pss / 2**20
        except psutil.Error:
            continue
        kind = "worker" if "PredictWorker" in name_of(process) else "ray"
        found[kind] = max(found[kind], size) if kind == "worker" else found[kind] + size
    return {f"MB of {name}": round(size) for name, size in found.items()}


def huge(folder: Path, side: int) -> dict[str, float]:
    """Predict a huge image whole by one thread, and in bands by two workers."""
    tile = np.asarray(Image.open(min((folder / "in").iterdir())))
    pixels = np.tile(tile, (-(-side // SIZE[0]), -(-side // SIZE[1]), 1))[:side, :side]
    tifffile.imwrite(folder / "huge.tif", pixels, tile=(512, 512), compression="zlib", photometric="rgb")
    alone, _ = predict(folder, "huge.tif", "whole", "--threads", "1")
    _, said = predict(folder, "huge.tif", "bands", "--cluster", "local", "--workers", "2")
    seconds = 1 / float(re.search(r"([\d.e+-]+) images/s", said)[1])
    same = (folder / "whole" / "huge.tif").read_bytes() == (folder / "bands" / "huge.tif").read_bytes()
    return {"side": side, "one process, 1 thread": alone, "2 workers": seconds, "equal bytes": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--side", type=int, default=8192, help="of the huge image; 0 for none")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model is None:
            save_model(
                build_model(recipe("fast"), ClassTable.from_values(range(11))), folder / "model.safetensors"
            )
        else:
            (folder / "model.safetensors").write_bytes(arguments.model.read_bytes())
        write_images(arguments.data, arguments.images, folder)
        load = os.getloadavg()[0]
        found = {
            "load before": load,
            "rates": rates(folder, arguments.images, arguments.rounds),
            "killed": killed(folder, arguments.images, arguments.kills) if arguments.kills else {},
            "huge": huge(folder, arguments.side) if arguments.side else {},
        }
    if arguments.json:
        print(json.dumps({**machine(), **found}))
        return
    lines = table(found, arguments.images)
    print("\n".join(lines))
    print(write_results("cluster", lines))


def table(found: dict[str, dict[str, float]], images: int) -> list[str]:
    """What was found, in words."""
    rows = found["rates"]
    base = rows["1 worker"]["rate"]
    lines = [
        f"{images} images of {SIZE[1]} x {SIZE[0]}; load of the machine before: {found['load before']:.1f}.",
        "",
        "| way | images/s | of 1 worker | s an image in a worker | s of starting |",
        "|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        inside = f"{row['inside']:.3f}" if "inside" in row else ""
        lines.append(
            f"| {way} | {row['rate']:.2f} | {row['rate'] / base:.2f} | {inside} | {row['starting']:.1f} |"
        )
    other = rows["one process, all threads"]["other masks"]
    lines += [
        "",
        f"With all threads {other:.0f} of {images} masks have other bytes than with one; else all are equal.",
    ]
    for what in ("killed", "huge"):
        if found[what]:
            words = ", ".join(f"{name} {value:.4g}" for name, value in found[what].items())
            lines += ["", f"{what.capitalize()}: {words}."]
    return lines


if __name__ == "__main__":
    main()
