"""What a training says before it begins, and its learning rate. `test_train` has the rest."""

import shutil

import numpy as np
import pytest
from test_trackers import Lines
from test_train import QUICK

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.session import one_cycle
from fullyconv.synthetic import write_dataset
from fullyconv.train import train


def test_one_cycle_rises_then_falls_to_nearly_nothing():
    rates = np.array([one_cycle(position) for position in np.linspace(0, 1, 101)])
    assert rates[0] == pytest.approx(1 / 25)
    assert rates.argmax() == 30
    assert rates.max() == pytest.approx(1)
    assert rates[-1] == pytest.approx(1e-4)


def test_what_check_warns_of_is_said_before_the_first_epoch(tmp_path):
    write_dataset(tmp_path / "data", train=4, val=2, test=0, size=(64, 96), seed=3)
    for kind in ("images", "masks"):
        shutil.copy(tmp_path / f"data/{kind}/train/0000.png", tmp_path / f"data/{kind}/val/0000.png")
    lines = Lines()
    train(Dataset.open(tmp_path / "data"), tmp_path / "run", recipe(**QUICK), use_cache=False, progress=lines)
    leak = [place for place, line in enumerate(lines.lines) if "images are in two splits" in line]
    first = next(place for place, line in enumerate(lines.lines) if line.startswith("epoch 1"))
    assert len(leak) == 1
    assert leak[0] < first
    assert lines.lines[leak[0]].startswith("WARNING: 1 images")
