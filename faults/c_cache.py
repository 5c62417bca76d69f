"""C: a feature cache that is killed, shared, cut, flipped, full."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from machinery import PROGRAM, SETTINGS, Canary, digest, environment, finished, mounted, mutations, prepared, run

from fullyconv.feature_cache import FeatureCache


def mutate_cache(folder: Path, tries: int) -> Iterator[bool]:
    """C3: entries of the feature cache cut, flipped, zeroed: never taken for features."""
    cache = FeatureCache(folder)
    key = "0" * 64
    tensors = {"0": torch.randn(3, 5), "1": torch.arange(7)}
    cache.store(key, tensors)
    (path,) = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 64]
    data = path.read_bytes()
    for changed in mutations(data, tries, random.Random(0)):
        path.write_bytes(changed)
        yield cache.load(key) is None
        cache.store(key, tensors)


WRITE = """
import sys, torch
from pathlib import Path
from fullyconv.feature_cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    cache.store(f"{number:064x}", {"0": torch.full((40_000,), float(number))})
    print(number, flush=True)
"""


def kill_writer(folder: Path, tries: int) -> Iterator[bool]:
    """C1: kill -9 of a process that writes entries: each is whole or not there, and no temporaries pile up."""
    draw, last = random.Random(0), 0
    for _ in range(tries):
        command = [sys.executable, "-c", WRITE, str(folder), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last = int(process.stdout.readline())
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
            rest = [int(line) for line in process.stdout.read().split() if line.isdecimal()]
        first, last = last, max([last, *rest])
        cache = FeatureCache(folder)
        entries = {number: cache.load(f"{number:064x}") for number in range(first, last + 2)}
        yield all(
            entry is None or bool((entry["0"] == number).all()) for number, entry in entries.items()
        ) and all(entries[number] is not None for number in range(first, last + 1))
        last += 1
    for path in folder.rglob("*.tmp"):
        os.utime(path, (0, 0))  # another machine may be writing young ones
    FeatureCache(folder).info_bytes()
    yield not list(folder.rglob("*.tmp"))


def share_one(folder: Path, tries: int) -> Iterator[bool]:
    """C2: four trainings at once with one cache, two of them killed and resumed: the weights of one alone."""
    model, _ = prepared(folder)
    draw = random.Random(0)
    for round_ in range(tries):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        names = [f"run{round_}-{number}" for number in range(4)]
        quiet = subprocess.DEVNULL
        running = [
            subprocess.Popen(
                [*PROGRAM, "train", "data", "-o", name, *SETTINGS],
                cwd=folder,
                env=environment(folder),
                stdout=quiet,
                stderr=quiet,
            )
            for name in names
        ]
        for process in running[:2]:
            time.sleep(draw.uniform(1.0, 4.0))
            process.kill()
        for process in running:
            process.wait(300)
        for name in names[:2]:
            yield finished(folder, name, model)
        for name in names[2:]:
            yield digest(folder / name / "last.safetensors") == model


def no_room(folder: Path, tries: int) -> Iterator[bool]:
    """C5: a cache on a full disk, or on one that is read only: said, and the same weights."""
    model, _ = prepared(folder)
    (folder / "cache").mkdir(exist_ok=True)
    for number, options in enumerate(["size=32k", "size=300k", "size=1m", "ro", "size=4k"][:tries]):
        before = mounted(folder / "cache", f"-t tmpfs -o {options}")
        done = run(folder, "train", "data", "-o", f"run{number}", *SETTINGS, before=before)
        said = "feature cache off" in done.stderr or options == "size=1m"  # where it has room
        good = said and done.returncode == 0 and digest(folder / f"run{number}" / "last.safetensors") == model
        if not good:
            print(f"  {options}: exit {done.returncode}, {done.stderr[-400:]}")
        yield good


def plant_entries(folder: Path, tries: int) -> Iterator[bool]:
    """C6: pickles in place of entries: not executed, not used."""
    cache, mark = FeatureCache(folder / "cache"), folder / "executed"
    for number in range(tries):
        key = f"{number:064x}"
        cache.store(key, {"0": torch.zeros(2)})
        (path,) = [path for path in folder.rglob("*") if path.is_file() and key in path.name]
        if number % 2:
            torch.save(Canary(mark), path)
        else:
            path.write_bytes(pickle.dumps(Canary(mark)))
        yield cache.load(key) is None and not mark.exists()
