"""What the families of faults share: a folder with data, the command line in it, kills, broken bytes."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fullyconv.class_table import ClassTable
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.synthetic import write_dataset

PROGRAM = [sys.executable, "-m", "fullyconv"]
SETTINGS = ["--recipe", "fast", "--epochs", "4", "--steps", "1", "--val-fraction", "0.3"]


@dataclass(frozen=True)
class Fault:
    """What is done.

    Attributes:
        what: In words.
        tries: How often.
        cause: Given a folder and the number of tries, yields whether each went well.
    """

    what: str
    tries: int
    cause: Callable[[Path, int], Iterator[bool]]


def environment(folder: Path) -> dict[str, str]:
    """A cache of its own, one thread, no network."""
    return {
        **os.environ,
        "FULLYCONV_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "FULLYCONV_OFFLINE": "1",
    }


def run(folder: Path, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    command = [*before, *PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300, check=False
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names."""
    sha = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            sha.update(os.fsencode(file.relative_to(path)) + file.read_bytes())
    return sha.hexdigest()


def prepared(folder: Path) -> tuple[str, str]:
    """Write a small data set and train on it undisturbed; the digests of the model and of the data."""
    write_dataset(folder / "data", train=4, val=2, test=0, size=(96, 128), seed=0)
    data = digest(folder / "data")
    done = run(folder, "train", "data", "-o", "whole", *SETTINGS)
    assert done.returncode == 0, done.stderr
    return digest(folder / "whole" / "last.safetensors"), data


def finished(folder: Path, name: str, model: str) -> bool:
    """Go on with a run, if it is there, until it ends; whether its model is that of the undisturbed run."""
    there = (folder / name / "config.toml").exists()
    done = run(folder, "train", "data", "-o", name, *([] if there else SETTINGS), *(["--resume"] if there else []))
    good = done.returncode == 0 and digest(folder / name / "last.safetensors") == model
    left = list((folder / name).rglob("*.tmp")) if (folder / name).exists() else []
    if not good or left:
        print(f"  {name}: exit {done.returncode}, {len(left)} temporaries: {done.stderr[-300:]}")
    return good and not left


def killed_after(seconds: float, folder: Path, *arguments: object) -> bool:
    """Start the command line and kill it, with all its processes, after a while; False if it had ended."""
    command, output = [*PROGRAM, *map(str, arguments)], subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=output, stderr=output, start_new_session=True
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def traced(call: str, when: int, what: str) -> tuple[str, ...]:
    """Let strace do something to the n-th of some system calls."""
    return (
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        f"--trace={call}",
        f"--inject={call}:{what}:when={when}",
    )


def mounted(place: Path, options: str, source: Path | str = "tmpfs") -> tuple[str, ...]:
    """Run something with a mount at a place, of which nobody else knows anything.

    Args:
        place: A folder.
        options: Of mount: "-t tmpfs -o size=1m", "--bind -o ro".
        source: What is mounted there.
    """
    # A bind mount becomes read-only by mounting it again.
    again = f'mount -o remount,bind,ro "{place}" && ' if "bind" in options else ""
    script = f'mount {options} "{source}" "{place}" && {again}exec "$@"'
    return ("unshare", "-rm", "sh", "-c", script, "sh")


def count_calls(folder: Path, call: str) -> int:
    """How many such calls an undisturbed training makes."""
    log = folder / "calls"
    before = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), f"--trace={call}")
    run(folder, "train", "data", "-o", "counted", *SETTINGS, before=before)
    shutil.rmtree(folder / "counted")
    return sum("(" in line and "resumed" not in line for line in log.read_text().splitlines())


def spread(count: int, tries: int) -> list[int]:
    """Some of the numbers 1..count, evenly, or all of them."""
    return (
        sorted({1 + place * count // tries for place in range(tries)})
        if tries < count
        else list(range(1, count + 1))
    )


def mutations(data: bytes, tries: int, draw: random.Random) -> Iterator[bytes]:
    """Cut at every place alike, flip bits, zero and swap stretches."""
    number = 0
    while number < tries:
        place = draw.randrange(len(data))
        changed = bytearray(data)
        if number % 4 == 0:
            changed = changed[:place]
        elif number % 4 == 1:
            changed[place] ^= 1 << draw.randrange(8)
        elif number % 4 == 2:
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        else:
            changed[place : place + 8], changed[-8:] = changed[-8:], changed[place : place + 8]
        if bytes(changed) != data:
            number += 1
            yield bytes(changed)


def save_small_model(path: Path) -> None:
    """Write a model that was not trained."""
    torch.manual_seed(0)
    save_model(FCN.build(ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4), path)


class Canary:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)
