"""Nineteen ways in which a data set is broken: `check` says each in the right words, `train` refuses or warns."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
from command_line import run

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.insert(0, str(FAULTS))
from broken_sets import BROKEN, make  # noqa: E402

sys.path.remove(str(FAULTS))


def digest(folder):
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", BROKEN)
def test_check_says_what_is_wrong_and_exits_so(name, tmp_path, monkeypatch, capsys):
    broken, data = BROKEN[name], make(tmp_path / "data", name)
    before = digest(data)
    code = run(monkeypatch, "check", data, "--json", "--no-cost")
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert broken.level in [finding["level"] for finding in findings if broken.words in finding["text"]]
    assert code == (2 if broken.level == "error" else 0)
    assert digest(data) == before


@pytest.mark.parametrize("name", BROKEN)
def test_train_refuses_it_before_the_first_epoch_or_says_it(name, tmp_path, monkeypatch, capsys):
    broken, data = BROKEN[name], make(tmp_path / "data", name)
    settings = ["--recipe", "fast", "--epochs", "1", "--steps", "1", "--pixels", "8", "--no-cache"]
    code = run(monkeypatch, "train", data, "-o", tmp_path / "run", *settings)
    said = capsys.readouterr().err
    assert broken.words in said
    assert code == (2 if broken.refused else 0)
    assert ("epoch 1" in said) == (not broken.refused)
    assert "Traceback" not in said


def test_a_sound_set_has_no_errors(tmp_path, monkeypatch, capsys):
    from fullyconv.synthetic import write_dataset

    write_dataset(tmp_path / "data", train=4, val=2, test=0, size=(64, 96), seed=0)
    assert run(monkeypatch, "check", tmp_path / "data", "--json", "--no-cost") == 0
    assert not [f for f in json.loads(capsys.readouterr().out)["findings"] if f["level"] == "error"]
