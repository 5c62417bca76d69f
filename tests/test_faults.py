"""A short selection of `make faults`, and mistakes that are put in: each of them is found."""

import contextlib
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FAULTS = Path(__file__).parents[1] / "faults"
MODULES = (
    "run",
    "machinery",
    "a_data",
    "b_training",
    "c_cache",
    "d_files",
    "e_prediction",
    "served",
    "f_requests",
    "f_service",
    "g_cluster",
)


@pytest.fixture
def faults(monkeypatch):
    """The module that has the table; the families are its attributes."""
    monkeypatch.syspath_prepend(FAULTS)
    for name in MODULES:
        sys.modules.pop(name, None)
    import run

    yield run
    for name in MODULES:
        sys.modules.pop(name, None)


def test_every_family_is_in_the_table_and_says_what_it_is(faults):
    names = sorted(faults.FAULTS)
    assert {name[0] for name in names} == set("ABCDEFG")
    for name, fault in faults.FAULTS.items():
        assert fault.cause.__doc__.startswith(name.rstrip("d"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about what is broken
@pytest.mark.parametrize(
    ("name", "share"),
    [("A1", 0.05), ("A2", 1), ("B5", 0.1), ("C3", 0.1), ("C6", 1), ("D2", 0.02), ("D3", 0.1)],
)
def test_files_that_are_cut_flipped_planted_and_lie(faults, name, share):
    tries, failures = faults.cause(name, share)
    assert tries >= 7
    assert failures == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tries"),
    [
        ("A6", 17),
        ("A7", 5),
        ("B1", 2),
        ("B7", 2),
        ("B11", 1),
        ("B13", 1),
        ("C1", 3),
        ("C2", 1),
        ("E6", 2),
        ("G3", 5),
    ],
)
def test_programs_that_are_killed_and_fed_with_oddities(faults, name, tries):
    tried, failures = faults.cause(name, tries / faults.FAULTS[name].tries)
    assert tried >= tries
    assert failures == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", ["B2", "B6"])
def test_a_system_call_that_kills_or_fails(faults, name):
    tries, failures = faults.cause(name, 1 / faults.FAULTS[name].tries)
    assert (tries, failures) == (1, 0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(("name", "tries"), [("A8", 2), ("B6d", 3), ("B12", 1), ("C5", 2)])
def test_disks_that_are_full_small_or_read_only(faults, name, tries):
    assert faults.cause(name, tries / faults.FAULTS[name].tries)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tries"), [("F3", 30), ("F5", 7), ("F9", 27), ("F10", 1), ("F13", 40), ("F14", 1)]
)
def test_a_service_that_is_attacked(faults, name, tries):
    assert faults.cause(name, tries / faults.FAULTS[name].tries)[1] == 0


# ---- mistakes ----


def test_a_cache_that_does_not_look_at_the_digest_is_found_out(faults, monkeypatch):
    monkeypatch.setattr("fullyconv.feature_cache._digest", lambda key, content: bytes(32))
    assert faults.cause("C3", 0.1)[1] > 10


@pytest.mark.parametrize(
    ("name", "share", "more_than"),
    [
        ("D2", 0.02, 10),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("D3", 0.1, 10), ("B5", 0.1, 0)]),
    ],
)
def test_a_model_file_that_is_not_sealed_is_found_out(faults, monkeypatch, name, share, more_than):
    monkeypatch.setattr("fullyconv.tensor_file.tensors_digest", lambda tensors, text: "0" * 64)
    monkeypatch.setattr("fullyconv.model_file._check_facts", lambda *facts: None)  # it has the encoder's digest
    assert faults.cause(name, share)[1] > more_than


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images_that_pillow_alone_reads_are_found_out(faults, monkeypatch):
    monkeypatch.setattr(faults.a_data, "read_image", lambda path: np.asarray(Image.open(path).convert("RGB")))
    assert faults.cause("A1", 0.02)[1] > 10


def test_a_reader_that_believes_a_header_is_found_out(faults, monkeypatch):
    believes = "import numpy; numpy.ones((20_000, 20_000), numpy.uint8); raise OSError"
    monkeypatch.setattr(faults.a_data, "READ_BOMB", believes)
    assert faults.cause("A2", 0.2) == (1, 1)


def test_a_cache_that_unpickles_is_found_out(faults, monkeypatch):
    def careless(cache, key):
        with contextlib.suppress(Exception):
            pickle.loads(cache._path(key).read_bytes())

    monkeypatch.setattr("fullyconv.feature_cache.FeatureCache.load", careless)
    assert faults.cause("C6", 0.1) == (2, 2)  # the mark of the first stays


@pytest.mark.slow
def test_a_training_that_goes_on_with_other_numbers_is_found_out(faults, monkeypatch):
    machinery = sys.modules["machinery"]
    digest = machinery.digest
    calls = []

    def other(path):
        calls.append(path)
        return digest(path) + str(len(calls)) * (path.suffix == ".safetensors")

    for module in (machinery, faults.b_training):
        monkeypatch.setattr(module, "digest", other)
    assert faults.cause("B1", 1 / 200)[1] > 0


def test_a_pickle_that_is_executed_is_found_out(faults, monkeypatch):
    def careless(folder, *arguments, before=()):
        done = type("Done", (), {"returncode": 2, "stderr": ""})()
        torch.load(folder / "evil", weights_only=False)
        return done

    monkeypatch.setattr(faults.d_files, "run", careless)
    monkeypatch.setattr(faults.d_files, "_places", lambda folder: None)
    assert faults.cause("D1", 0.05) == (1, 1)
