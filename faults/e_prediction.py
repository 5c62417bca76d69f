"""E: predictions that are killed."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machinery import killed_after, run, save_small_model
from PIL import Image


def kill_prediction(folder: Path, tries: int) -> Iterator[bool]:
    """E6: kill -9 at random moments of a prediction: every file under a final name is whole."""
    save_small_model(folder / "m.safetensors")
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
