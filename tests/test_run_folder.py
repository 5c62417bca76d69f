"""A run folder is begun once, gone on with on request, and never overwritten."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fullyconv.class_table import ClassTable
from fullyconv.config import config_from_mapping, recipe
from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import UsageError
from fullyconv.progress import Silent
from fullyconv.run_folder import Follower, RunFolder, next_run_folder
from fullyconv.settings import read_config


class Listener(Silent):
    """Keep what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def new(path, **options):
    return RunFolder(path, **{"resume": False, "progress": Silent(), **options})


def dataset(*ids):
    samples = tuple(Sample(name, Path(f"{name}.png"), None, None) for name in ids)
    return Dataset(Path("data"), ClassTable.from_values([0, 1]), samples)


def started(path):
    run = new(path)
    run.write_start(recipe("fast"), {"train": dataset("a", "b"), "val": dataset("c")})
    return run


def test_runs_are_numbered_after_the_last(tmp_path):
    assert next_run_folder(Path("camvid"), tmp_path) == tmp_path / "camvid-1"
    (tmp_path / "camvid-1").mkdir()
    (tmp_path / "camvid-2").touch()
    (tmp_path / "camvid-3").symlink_to("nowhere")
    assert next_run_folder(Path("camvid"), tmp_path) == tmp_path / "camvid-4"


def test_runs_are_named_after_the_data(tmp_path, monkeypatch):
    for name in ("v1.5", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "pairs.v2.txt").touch()
    monkeypatch.chdir(tmp_path / "here")
    names = [next_run_folder(Path(data)).name for data in ("../v1.5/", "../pairs.v2.txt", ".", "/")]
    assert names == ["v1.5-1", "pairs.v2-1", "here-1", "run-1"]


def test_a_new_run_makes_its_folder_with_its_parents(tmp_path):
    run = new(tmp_path / "a" / "b")
    assert run.path.is_dir()
    assert run.best.parent == run.last.parent == run.checkpoint.parent == run.path


def test_an_empty_folder_is_taken(tmp_path):
    assert new(tmp_path).path == tmp_path


def test_a_folder_that_holds_nothing_but_the_lock_of_a_killed_run_is_taken(tmp_path):
    (tmp_path / ".lock").touch()
    assert new(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["config.toml", ".hidden"])
def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("old")
    message = rf"the run folder {re.escape(str(tmp_path))} is there already and is not empty \(give --resume"
    with pytest.raises(UsageError, match=message):
        new(tmp_path)
    assert (tmp_path / name).read_text() == "old"


def test_a_file_is_no_run_folder(tmp_path):
    path = tmp_path / "run"
    path.write_text("old")
    with pytest.raises(UsageError, match="is there already and is not empty"):
        new(path)
    with pytest.raises(UsageError, match=r"the run folder .*below cannot be made: Not a directory"):
        new(path / "below")
    assert path.read_text() == "old"


def test_a_run_is_resumed_only_where_there_is_one(tmp_path):
    with pytest.raises(
        UsageError, match=r"has no run to resume: there is no config.toml in it \(leave --resume out"
    ):
        new(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()
    started(tmp_path / "run")
    assert new(tmp_path / "run", resume=True).read_split() == {"a": "train", "b": "train", "c": "val"}


def test_the_settings_of_a_run_are_kept(tmp_path):
    started(tmp_path)
    assert config_from_mapping(read_config(tmp_path / "config.toml")) == recipe("fast")


def test_a_run_whose_start_was_not_all_written_cannot_be_resumed(tmp_path, monkeypatch):
    def killed(config, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("fullyconv.run_folder.write_config", killed)
    with pytest.raises(KeyboardInterrupt):
        started(tmp_path)
    with pytest.raises(UsageError, match="has no run to resume"):
        new(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", " a ", "ü/é", os.fsdecode(b"\xff"), "split", "0"])
def test_any_sample_id_comes_back_from_the_split(tmp_path, name):
    run = new(tmp_path)
    run.write_start(recipe(), {"train": dataset(name), "val": dataset("other")})
    assert run.read_split() == {name: "train", "other": "val"}


def test_every_line_is_said_and_logged_as_it_comes(tmp_path):
    listener = Listener()
    run = new(tmp_path, progress=listener)
    lines = ["first", f"a file named {os.fsdecode(bytes([255]))}", "grün"]
    for count, line in enumerate(lines, 1):
        run.say(line)
        assert len((tmp_path / "log.txt").read_bytes().splitlines()) == count
    assert listener.lines == lines
    assert (tmp_path / "log.txt").read_bytes() == b"first\na file named \xff\ngr\xc3\xbcn\n"


def test_a_resumed_run_goes_on_with_the_log(tmp_path):
    started(tmp_path).say("first")
    new(tmp_path, resume=True).say("second")
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    run = started(tmp_path / "run")
    run.say("first")
    run.discard()
    assert list((tmp_path / "run").iterdir()) == []


def test_discarding_a_run_leaves_what_it_did_not_write(tmp_path):
    run = new(tmp_path / "run")
    (run.path / "notes.txt").touch()
    run.discard()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_steps_are_shown_but_not_logged(tmp_path):
    with new(tmp_path).track("epoch 1", 2) as step:
        step()
    assert not (tmp_path / "log.txt").exists()


def test_metrics_are_one_line_an_epoch_written_anew(tmp_path):
    run = new(tmp_path)
    row = {"epoch": 1, "loss": 1 / 3, "mean_iou": 0.5}
    run.write_metrics([row])
    run.write_metrics([row, {**row, "epoch": 2}])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[0]["loss"]) == 1 / 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


def test_a_failed_write_leaves_the_metrics_before(tmp_path):
    run = new(tmp_path)
    run.write_metrics([{"epoch": 1}])
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match="dict contains fields not in fieldnames"):
        run.write_metrics([{"epoch": 1}, {"other": 2}])
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_settings_of_a_changed_recipe_come_back_too(tmp_path):
    run = new(tmp_path)
    config = replace(recipe(), classes="sky,road", threads=2)
    run.write_start(config, {"train": dataset("a")})
    assert config_from_mapping(read_config(tmp_path / "config.toml")) == config


def test_a_follower_says_and_writes_nothing(tmp_path):
    run = Follower(tmp_path / "run")
    with run.held(resumed=False), run.track("epoch 1", 2) as tick:
        tick()
        run.say("a line")
        run.write_start(recipe(), {"train": []})
        run.write_metrics([{"epoch": 1}])
        run.discard()
    assert run.best == tmp_path / "run" / "best.safetensors"
    assert not list(tmp_path.iterdir())
