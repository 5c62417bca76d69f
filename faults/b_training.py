"""B: trainings that are killed, find no space, get signals, share a folder, lose their checkpoint."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from machinery import (
    PROGRAM,
    SETTINGS,
    count_calls,
    digest,
    environment,
    finished,
    killed_after,
    mounted,
    mutations,
    prepared,
    run,
    spread,
    traced,
)
from PIL import Image

from fullyconv.checkpoint import load_newest, save_checkpoint

CALLS = "rename,renameat,renameat2,fsync"


def kill_training(folder: Path, tries: int) -> Iterator[bool]:
    """B1: kill -9 at random moments of a training, resume, until it is done; then the next training."""
    model, data = prepared(folder)
    draw, number = random.Random(0), 0
    for _ in range(tries):
        killed = False
        while not killed:
            name = f"run{number}"
            options = ["--resume"] if (folder / name / "config.toml").exists() else SETTINGS
            killed = killed_after(draw.uniform(0.5, 4.5), folder, "train", "data", "-o", name, *options)
            if not killed:  # it had ended before
                yield digest(folder / name / "last.safetensors") == model
                shutil.rmtree(folder / name)
                shutil.rmtree(folder / "cache", ignore_errors=True)
                number += 1
        yield True
    yield finished(folder, f"run{number}", model)
    yield digest(folder / "data") == data


def kill_at_every_rename(folder: Path, tries: int) -> Iterator[bool]:
    """B2: SIGKILL at every rename and fsync of a training, then resume."""
    model, _ = prepared(folder)
    for when in spread(count_calls(folder, CALLS), tries):
        run(folder, "train", "data", "-o", f"run{when}", *SETTINGS, before=traced(CALLS, when, "signal=KILL"))
        yield finished(folder, f"run{when}", model)
        shutil.rmtree(folder / f"run{when}", ignore_errors=True)


def full_disk(folder: Path, tries: int) -> Iterator[bool]:
    """B6: "no space left" at every fsync of a training: one line, exit code 1 or a note, and it can go on."""
    model, _ = prepared(folder)
    for when in spread(count_calls(folder, "fsync"), tries):
        name = f"run{when}"
        done = run(folder, "train", "data", "-o", name, *SETTINGS, before=traced("fsync", when, "error=ENOSPC"))
        said = done.returncode == 0 or (done.returncode in (1, 2) and "Traceback" not in done.stderr)
        yield said and finished(folder, name, model)
        shutil.rmtree(folder / name, ignore_errors=True)


def two_in_one_folder(folder: Path, tries: int) -> Iterator[bool]:
    """B13: a second training in a folder is refused while the first one runs, and the first one is unharmed."""
    model, _ = prepared(folder)
    for number in range(tries):
        command = [*PROGRAM, "train", "data", "-o", f"run{number}", *SETTINGS]
        with subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL) as first:
            while not (folder / f"run{number}" / "config.toml").exists() and first.poll() is None:
                time.sleep(0.02)
            second = run(folder, "train", "data", "-o", f"run{number}", "--resume")
            alone = first.poll() is not None
        refused = second.returncode == 2 and "Traceback" not in second.stderr
        yield (refused or alone) and digest(folder / f"run{number}" / "last.safetensors") == model


def damage_newest(folder: Path, tries: int) -> Iterator[bool]:
    """B5: the newest checkpoint cut, flipped, zeroed, empty: said, and the one before it is taken."""
    states = [{"decoder": {"weight": torch.full((7,), float(epoch))}, "history": [epoch]} for epoch in (1, 2)]
    for epoch, state in enumerate(states, start=1):
        newest = save_checkpoint(folder / "checkpoint", state, epoch=epoch)
    data = newest.read_bytes()
    for changed in [b"", *mutations(data, tries, random.Random(0))]:
        newest.write_bytes(changed)
        said: list[str] = []
        found = load_newest(folder / "checkpoint", report=said.append)
        yield found is not None and found["history"] == [1] and len(said) == 1
        newest.write_bytes(data)
    whole = load_newest(folder / "checkpoint")
    yield whole is not None and whole["history"] == [2]


def signal_training(folder: Path, tries: int) -> Iterator[bool]:
    """B7: SIGTERM and SIGINT at random moments: exit 143 and 130 within ten seconds, and it goes on."""
    model, _ = prepared(folder)
    draw = random.Random(0)
    for number in range(tries):
        sent, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[number % 2]
        command = [*PROGRAM, "train", "data", "-o", f"run{number}", *SETTINGS]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=quiet, stderr=quiet) as process:
            time.sleep(draw.uniform(1.5, 3.5))
            process.send_signal(sent)
            began = time.monotonic()
            ended = process.wait(60)
            seconds = time.monotonic() - began
        good = ended in (code, -sent, 0) and seconds < 10  # to a shell -15 is 143, too: it was not up yet
        if not good:
            print(f"  signal {sent}: exit {ended} after {seconds:.1f} s")
        yield good and finished(folder, f"run{number}", model)
        shutil.rmtree(folder / f"run{number}")
        shutil.rmtree(folder / "cache", ignore_errors=True)


def diverge(folder: Path, tries: int) -> Iterator[bool]:
    """B11: a learning rate that no number survives, crops without a label: said, no NaN kept, masks finite."""
    prepared(folder)
    plans = [["--lr", "1e38"], ["--lr", "1e30"], ["--decoder", "fcn", "--lr", "1e38"]]
    for number, plan in enumerate(plans[:tries]):
        name = f"run{number}"
        settings = SETTINGS if "--decoder" not in plan else SETTINGS[2:]
        done = run(folder, "train", "data", "-o", name, *settings, *plan)
        metrics = folder / name / "metrics.csv"
        kept = metrics.read_text().lower() if metrics.exists() else ""
        good = done.returncode in (0, 1) and "Traceback" not in done.stderr and "nan" not in kept
        if not good:
            print(f"  {plan}: exit {done.returncode}, {done.stderr[-300:]}")
        yield good
    for mask in (folder / "data/masks/train").iterdir():
        values = np.full(np.asarray(Image.open(mask)).shape, 255, np.uint8)
        values[:1, :2] = (0, 1)
        Image.fromarray(values).save(mask)
    settings = ["--decoder", "fcn", "--stride", "8", "--crop", "32", "--epochs", "2", "--steps", "1"]
    done = run(folder, "train", "data", "-o", "sparse", *settings)
    yield done.returncode in (0, 1) and "Traceback" not in done.stderr and "nan" not in done.stderr.lower()


def no_shared_memory(folder: Path, tries: int) -> Iterator[bool]:
    """B12: a training starts no process that could die or hang, and needs no /dev/shm: 64 kB will do."""
    model, _ = prepared(folder)
    for number in range(tries):
        command = [*PROGRAM, "train", "data", "-o", f"run{number}", *SETTINGS]
        quiet, children = subprocess.DEVNULL, 0
        with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=quiet, stderr=quiet) as process:
            while process.poll() is None:
                for file in Path(f"/proc/{process.pid}/task").glob("*/children"):
                    with contextlib.suppress(OSError):
                        children += len(file.read_text().split())
                time.sleep(0.02)
        yield children == 0 and digest(folder / f"run{number}" / "last.safetensors") == model
        shutil.rmtree(folder / "cache")
        name = f"shm{number}"
        before = mounted(Path("/dev/shm"), "-t tmpfs -o size=64k")
        done = run(folder, "train", "data", "-o", name, *SETTINGS, before=before)
        yield done.returncode == 0 and digest(folder / name / "last.safetensors") == model


def small_disks(folder: Path, tries: int) -> Iterator[bool]:
    """B6: run folders on disks of all sizes: it fits, or one line says what is missing."""
    prepared(folder)
    whole = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
    (folder / "disk").mkdir()
    for number in range(tries):
        size = int(whole * (0.02 + 1.3 * number / max(tries - 1, 1)))
        before = mounted(folder / "disk", f"-t tmpfs -o size={size}")
        done = run(folder, "train", "data", "-o", "disk/run", *SETTINGS, before=before)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
        said = done.returncode == 0 or (done.returncode in (1, 2) and len(lines) == 1)
        if not said or "Traceback" in done.stderr:
            print(f"  {size} bytes: exit {done.returncode}, {done.stderr[-300:]}")
        yield said and "Traceback" not in done.stderr
