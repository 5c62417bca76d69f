"""Faults, really caused, and whether the software survives them: one table of tries and failures.

    python faults/run.py                     # all, in about twenty minutes
    python faults/run.py --only B1 C3        # some
    python faults/run.py --share 0.05        # a twentieth of the tries

The names are those of the families: A data, B training, C feature cache, D model files, E prediction. A training
is killed, its system calls fail by `strace` (Debian: apt install strace), files are cut and flipped. That faults
are found, mistakes that were put in show (`tests/test_faults.py`). With no failure in N tries the failure rate is
below 3 / N with 95 % confidence.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.errors import DataError, FullyConvError, ModelFileError
from fullyconv.feature_cache import FeatureCache
from fullyconv.images import read_image
from fullyconv.model import FCN
from fullyconv.model_file import load_model, save_model
from fullyconv.synthetic import write_dataset

PROGRAM = [sys.executable, "-m", "fullyconv"]
SETTINGS = ["--recipe", "fast", "--epochs", "4", "--steps", "1", "--val-fraction", "0.3"]
CALLS = "rename,renameat,renameat2,fsync"


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
            sha.update(str(file.relative_to(path)).encode() + file.read_bytes())
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


def count_calls(folder: Path, call: str) -> int:
    """How many such calls an undisturbed training makes."""
    log = folder / "calls"
    before = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), f"--trace={call}")
    run(folder, "train", "data", "-o", "counted", *SETTINGS, before=before)
    shutil.rmtree(folder / "counted")
    return sum("(" in line and "resumed" not in line for line in log.read_text().splitlines())


def kill_at_every_rename(folder: Path, tries: int) -> Iterator[bool]:
    """B2: SIGKILL at every rename and fsync of a training, then resume."""
    model, _ = prepared(folder)
    for when in _spread(count_calls(folder, CALLS), tries):
        run(folder, "train", "data", "-o", f"run{when}", *SETTINGS, before=traced(CALLS, when, "signal=KILL"))
        yield finished(folder, f"run{when}", model)
        shutil.rmtree(folder / f"run{when}", ignore_errors=True)


def full_disk(folder: Path, tries: int) -> Iterator[bool]:
    """B6: "no space left" at every fsync of a training: one line, exit code 1 or a note, and it can go on."""
    model, _ = prepared(folder)
    for when in _spread(count_calls(folder, "fsync"), tries):
        name = f"run{when}"
        done = run(folder, "train", "data", "-o", name, *SETTINGS, before=traced("fsync", when, "error=ENOSPC"))
        said = done.returncode == 0 or (done.returncode in (1, 2) and "Traceback" not in done.stderr)
        yield said and finished(folder, name, model)
        shutil.rmtree(folder / name, ignore_errors=True)


def _spread(count: int, tries: int) -> list[int]:
    """Some of the numbers 1..count, evenly, or all of them."""
    return (
        sorted({1 + place * count // tries for place in range(tries)})
        if tries < count
        else list(range(1, count + 1))
    )


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


def save_small_model(path: Path) -> None:
    """Write a model that was not trained."""
    torch.manual_seed(0)
    save_model(FCN.build(ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4), path)


def mutate_model(folder: Path, tries: int) -> Iterator[bool]:
    """D3: model files cut and flipped: refused in one line, or exactly the model."""
    torch.manual_seed(0)
    save_model(
        FCN.build(ClassTable.from_names("ab"), decoder="practical", stride=8, hidden=4), folder / "m.safetensors"
    )
    data = (folder / "m.safetensors").read_bytes()
    changed_file = folder / "changed.safetensors"
    for changed in mutations(data, tries, random.Random(0)):
        changed_file.write_bytes(changed)
        try:
            load_model(changed_file)
        except ModelFileError:
            yield True
        except Exception as error:
            print(f"  {type(error).__name__}: {error}")
            yield False
        else:
            yield False


class Canary:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def plant_pickles(folder: Path, tries: int) -> Iterator[bool]:
    """D1: a pickle under the name of every kind of file that is read: refused, and not executed."""
    write_dataset(folder / "data", train=2, val=1, test=0, size=(96, 128), seed=0)
    mark, image = folder / "executed", "data/images/val/" + next((folder / "data/images/val").iterdir()).name
    torch.save(Canary(mark), folder / "evil")
    plans = [
        ("evil.safetensors", ["predict", "evil.safetensors", image, "-o", "out"]),
        ("evil.onnx", ["predict", "evil.onnx", image, "-o", "out"]),
        ("evil.openvino", ["evaluate", "evil.openvino", "data"]),
        ("evil.safetensors", ["train", "data", "-o", "run1", "--from", "evil.safetensors"]),
        ("evil.pth", ["train", "data", "-o", "run2", "--encoder", "resnet18", "--encoder-weights", "evil.pth"]),
        ("evil.pt", ["train", "data", "-o", "run3", "--encoder", "vgg16", "--encoder-weights", "evil.pt"]),
        ("evil.safetensors", ["train", "data", "-o", "run4", "--encoder", "cae:evil.safetensors"]),
        ("evil.npy", ["predict", "evil.safetensors", "evil.npy", "-o", "out"]),
        ("evil.json", ["check", "evil.json"]),
        ("evil.png", ["predict", "evil.safetensors", "evil.png", "-o", "out"]),
    ]
    for number in range(tries):
        name, arguments = plans[number % len(plans)]
        shutil.copy(folder / "evil", folder / name)
        done = run(folder, *arguments)
        refused = done.returncode in (1, 2) and "Traceback" not in done.stderr
        if not refused or mark.exists():
            print(f"  {arguments}: exit {done.returncode}, executed: {mark.exists()}, {done.stderr[-200:]}")
        yield refused and not mark.exists()
        (folder / name).unlink()


def break_images(folder: Path, tries: int) -> Iterator[bool]:
    """A1: images of every format cut, flipped, zeroed: read, or refused in one line."""
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    kinds = ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm")
    for kind in kinds:
        picture.save(folder / f"whole.{kind}")
    for kind in kinds:
        data = (folder / f"whole.{kind}").read_bytes()
        for changed in mutations(data, tries // len(kinds), random.Random(kind)):
            path = folder / f"broken.{kind}"
            path.write_bytes(changed)
            try:
                found = read_image(path)
            except DataError as error:
                yield "\n" not in str(error)
            except Exception as error:
                print(f"  {kind}: {type(error).__name__}: {error}")
                yield False
            else:
                yield found.ndim == 3 and found.dtype == np.uint8


def kill_prediction(folder: Path, tries: int) -> Iterator[bool]:
    """E6: kill -9 at random moments of a prediction: every file under a final name is whole."""
    torch.manual_seed(0)
    save_model(
        FCN.build(ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4), folder / "m.safetensors"
    )
    (folder / "in").mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(draw.integers(0, 256, (400, 500, 3), dtype=np.uint8)).save(folder / "in" / f"{number}.png")
    assert run(folder, "predict", "m.safetensors", "in", "-o", "whole").returncode == 0
    chance = random.Random(0)
    for number in range(tries):
        killed_after(chance.uniform(2.0, 4.5), folder, "predict", "m.safetensors", "in", "-o", f"out{number}")
        out = folder / f"out{number}"
        files = [path for path in out.glob("*") if not path.name.endswith(".tmp")] if out.exists() else []
        yield all(path.read_bytes() == (folder / "whole" / path.name).read_bytes() for path in files)
        shutil.rmtree(out, ignore_errors=True)


FAULTS = {
    "A1": Fault("images of seven formats cut, flipped, zeroed: read or refused", 3500, break_images),
    "B1": Fault("kill -9 of a training at random: resumed to equal weights", 200, kill_training),
    "B2": Fault("kill -9 at every rename and fsync of a training", 1000, kill_at_every_rename),
    "B6": Fault("no space left at every fsync of a training", 1000, full_disk),
    "B13": Fault("two trainings in one folder", 5, two_in_one_folder),
    "C3": Fault("feature cache entries cut, flipped, zeroed: never used", 1000, mutate_cache),
    "D1": Fault("pickles under every name that is read: never executed", 10, plant_pickles),
    "D3": Fault("model files cut, flipped, zeroed: refused", 600, mutate_model),
    "E6": Fault("kill -9 of a prediction at random: no partial mask", 50, kill_prediction),
}


def cause(name: str, share: float = 1.0) -> tuple[int, int]:
    """Cause a fault; how often, and how often it was not survived."""
    fault = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        results = list(fault.cause(Path(folder), max(1, round(fault.tries * share))))
    return len(results), results.count(False)


def main() -> None:
    """Cause the faults that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the tries")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    print(f"{'id':4} {'tries':>6} {'failures':>9}  what", flush=True)
    for name in arguments.only:
        if name in ("B2", "B6") and shutil.which("strace") is None:
            print(f"{name:4} {'-':>6} {'-':>9}  needs strace")
            continue
        tries, failures = found[name] = cause(name, arguments.share)
        print(f"{name:4} {tries:>6} {failures:>9}  {FAULTS[name].what}", flush=True)
    if arguments.json:
        print(json.dumps(found))
    if any(failures for _, failures in found.values()):
        raise FullyConvError("some faults were not survived")


if __name__ == "__main__":
    try:
        main()
    except FullyConvError as error:
        sys.exit(str(error))
