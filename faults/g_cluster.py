"""G: predictions on a cluster whose workers and drivers are killed."""

import csv
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
from machinery import PROGRAM, environment, run
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.model import FCN
from fullyconv.model_file import save_model

PREDICT = ["predict", "m.safetensors", "in", "--no-overlay"]
ON_TWO = ["--cluster", "local", "--workers", "2"]

POISON = """
import os
link = os.link
def deadly(source, target, **options):
    if "poison" in str(target):
        os.kill(os.getpid(), 9)
    return link(source, target, **options)
os.link = deadly
"""
"""A sitecustomize.py: the process that gives an output of a poisoned image its name is killed."""


def prepared(folder: Path, count: int) -> dict[str, bytes]:
    """Write a model and images in two folders, and predict them in one process; name and content of each mask."""
    torch.manual_seed(1)
    model = FCN.build(ClassTable.from_names("abcd"), decoder="practical", stride=8, hidden=4)
    torch.nn.init.normal_(model.decoder.score.weight)
    save_model(model, folder / "m.safetensors")
    draw = np.random.default_rng(0)
    for number in range(count):
        place = folder / "in" / ("a" if number % 2 else "b")  # the same stems in both
        place.mkdir(parents=True, exist_ok=True)
        blocks = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        blocks.resize((128, 96), Image.Resampling.BICUBIC).save(place / f"{number // 2}.png")
    done = run(folder, *PREDICT, "-o", "whole")
    assert done.returncode == 0, done.stderr
    return masks(folder / "whole")


def masks(out: Path) -> dict[str, bytes]:
    """Name and content of each file under its final name."""
    found = {}
    for place, folders, files in os.walk(out):
        folders[:] = [folder for folder in folders if folder != ".fullyconv"]
        for path in (Path(place, file) for file in files if file.endswith(".png")):
            found[path.relative_to(out).as_posix()] = path.read_bytes()
    return found


@contextmanager
def driven(folder: Path, out: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command on two workers."""
    command = [*PROGRAM, *PREDICT, "-o", out, *ON_TWO]
    with (folder / f"{out}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**environment(folder), **variables}, stdout=log, stderr=log, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers that live."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "PredictWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_workers(folder: Path, tries: int) -> Iterator[bool]:
    """G1: kill -9 of random workers at random moments: each mask is there once, with the bytes of one process."""
    whole = prepared(folder, tries)
    chance, kills = random.Random(0), max(1, tries // 100)
    with driven(folder, "out") as driver:
        for number in range(kills):
            # Spread over the whole job: the next one comes when so many masks are there.
            while driver.poll() is None and len(masks(folder / "out")) <= tries * number // kills:
                time.sleep(0.2)
            time.sleep(chance.uniform(0, 0.5))
            while driver.poll() is None and not (living := workers_of(driver)):
                time.sleep(0.1)
            assert driver.poll() is None, f"only {number} kills: {(folder / 'out.log').read_text()}"
            chance.choice(living).kill()
            assert masks(folder / "out").items() <= whole.items(), "half a file, or another one"
        code = driver.wait(1800)
    found = masks(folder / "out")
    lines = (folder / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    print(f"  {kills} kills, exit {code}, {len(lines)} lines, {len(whole.keys() - found.keys())} missing")
    if code:
        print((folder / "out" / "quarantine.csv").read_text(encoding="utf-8"))
    for name, data in whole.items():
        yield code == 0 and found.get(name) == data and len(lines) == len(set(lines)) == len(whole)


def kill_drivers(folder: Path, tries: int) -> Iterator[bool]:
    """G2: kill -9 of the driver at random moments: the same command goes on, and leaves what is done as it is."""
    whole = prepared(folder, 60)
    chance = random.Random(0)
    for number in range(tries):
        out = folder / f"out{number}"
        with driven(folder, out.name) as driver:
            while driver.poll() is None and len(masks(out)) < 1 + 50 * number // tries:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 0.3))
            os.kill(driver.pid, signal.SIGKILL)
        time.sleep(2)  # Its workers end.
        kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
        again = run(folder, *PREDICT, "-o", out.name, *ON_TWO)
        same = {path: path.stat().st_mtime_ns for path in kept if path.exists()} == kept
        yield again.returncode == 0 and same and masks(out) == whole


def poison(folder: Path, tries: int) -> Iterator[bool]:
    """G3: images on which workers die, and broken ones: listed after three tries and one, all others done."""
    whole = prepared(folder, tries)
    for number in range(2):
        Image.new("RGB", (40, 30)).save(folder / "in" / f"poison{number}.png")
    (folder / "in" / "broken.png").write_text("no image")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(POISON)
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with driven(folder, "out", PYTHONPATH=path) as driver:
        code = driver.wait(600)
    rows = csv.DictReader((folder / "out" / "quarantine.csv").read_text(encoding="utf-8").splitlines())
    listed = {row["name"]: row["reason"] for row in rows}
    died = [name for name, reason in listed.items() if reason == "3 workers died on it"]
    good = code == 1 and sorted(listed) == ["broken", "poison0", "poison1"] and sorted(died) == sorted(listed)[1:]
    found = masks(folder / "out")
    for name, data in whole.items():
        yield good and found.get(name) == data


def twice_and_exposed(folder: Path, tries: int) -> Iterator[bool]:
    """G4, G5: the same job started twice at a time: one is refused; no port that other machines reach."""
    whole = prepared(folder, 40)
    for number in range(tries):
        out = f"out{number}"
        with driven(folder, out) as driver:
            while driver.poll() is None and not workers_of(driver):
                time.sleep(0.1)
            second = run(folder, *PREDICT, "-o", out, *ON_TWO)
            ports = [
                port.laddr.ip
                for process in psutil.Process(driver.pid).children(recursive=True)
                for port in process.net_connections()
                if port.status == psutil.CONN_LISTEN
            ]
            code = driver.wait(600)
        local = bool(ports) and all(address.endswith("127.0.0.1") for address in ports)
        print(f"  {len(ports)} ports, all on 127.0.0.1: {local}; the second: {second.stderr.strip()[-120:]}")
        yield second.returncode == 2 and code == 0 and local and masks(folder / out) == whole
