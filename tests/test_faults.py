"""A short selection of `make faults`, and mistakes that are put in: each of them is found."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(FAULTS)
    sys.modules.pop("run", None)
    import run

    yield run
    sys.modules.pop("run", None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about what is broken
@pytest.mark.parametrize(("name", "share"), [("A1", 0.05), ("C3", 0.1), ("D3", 0.1)])
def test_files_that_are_cut_and_flipped(faults, name, share):
    tries, failures = faults.cause(name, share)
    assert tries >= 60
    assert failures == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tries"), [("B1", 2), ("B13", 1), ("E6", 2)])
def test_programs_that_are_killed(faults, name, tries):
    tried, failures = faults.cause(name, tries / faults.FAULTS[name].tries)
    assert tried >= tries
    assert failures == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", ["B2", "B6"])
def test_a_system_call_that_kills_or_fails(faults, name):
    tries, failures = faults.cause(name, 1 / faults.FAULTS[name].tries)
    assert (tries, failures) == (1, 0)


# ---- mistakes ----


def test_a_cache_that_does_not_look_at_the_digest_is_found_out(faults, monkeypatch):
    monkeypatch.setattr("fullyconv.feature_cache._digest", lambda key, content: bytes(32))
    assert faults.cause("C3", 0.1)[1] > 10


def test_a_model_file_that_is_not_sealed_is_found_out(faults, monkeypatch):
    monkeypatch.setattr("fullyconv.tensor_file.tensors_digest", lambda tensors, text: "0" * 64)
    monkeypatch.setattr("fullyconv.model_file._check_facts", lambda *facts: None)  # it has the encoder's digest
    assert faults.cause("D3", 0.1)[1] > 10


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images_that_pillow_alone_reads_are_found_out(faults, monkeypatch):
    monkeypatch.setattr(faults, "read_image", lambda path: np.asarray(Image.open(path).convert("RGB")))
    assert faults.cause("A1", 0.02)[1] > 10


@pytest.mark.slow
def test_a_training_that_goes_on_with_other_numbers_is_found_out(faults, monkeypatch):
    digest = faults.digest
    calls = []

    def other(path):
        calls.append(path)
        return digest(path) + str(len(calls)) * (path.suffix == ".safetensors")

    monkeypatch.setattr(faults, "digest", other)
    assert faults.cause("B1", 1 / 200)[1] > 0


def test_a_pickle_that_is_executed_is_found_out(faults, monkeypatch, tmp_path):
    def careless(folder, *arguments, before=()):
        done = type("Done", (), {"returncode": 2, "stderr": ""})()
        torch.load(folder / "evil", weights_only=False)
        return done

    monkeypatch.setattr(faults, "run", careless)
    assert faults.cause("D1", 0.1) == (1, 1)
