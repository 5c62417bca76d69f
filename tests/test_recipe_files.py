"""The files in recipes/: each says what it is, and runs from end to end on a miniature of its data set."""

import math
from pathlib import Path

import miniatures
import pytest
from tiny_networks import make_thin

from fullyconv.config import config_from_mapping, recipe
from fullyconv.dataset import Dataset
from fullyconv.decoders.fcn import FCNDecoder
from fullyconv.settings import read_config
from fullyconv.train import train

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(path.name for path in FOLDER.glob("*.toml"))


def settings_of(name):
    return read_config(FOLDER / name)


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_says_what_was_published_and_its_command(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any(line.startswith(("# Published:", "# Measured:")) for line in comments)
    assert any(f"--config recipes/{name}" in line for line in comments)
    assert "two cores" in text  # how long it takes
    config_from_mapping(settings_of(name), source=name)


MINIATURES = {
    "voc": (miniatures.voc, ()),
    "coco": (miniatures.coco, ()),
    "lecture": (miniatures.road_arrays, ()),
    "camvid": (miniatures.camvid_of_segnet, (11,)),
}
"""By how the names of recipes begin: the data set in small, and the values that it ignores."""

FEW_STEPS = {"steps": 0, "threads": 1, "encoder_weights": "none"}


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_runs_from_end_to_end_on_a_miniature(name, tmp_path, monkeypatch):
    make_thin(monkeypatch, 8)
    monkeypatch.setitem(FCNDecoder.__init__.__kwdefaults__, "width", 16)
    fill, ignore = MINIATURES[name.split("-")[0].removesuffix(".toml")]
    fill(tmp_path / "data")
    values = {**settings_of(name), **FEW_STEPS}
    if values.get("epochs", 1):
        values |= {"epochs": 1}
    if values.get("epoch_steps"):
        values |= {"epoch_steps": 2, "batch": 2, "width": 8}
    if values.get("train_encoder", "none") != "none":
        values |= {"tune_epochs": 1}
    config = config_from_mapping(values, source=name)
    result = train(Dataset.open(tmp_path / "data", ignore=ignore), tmp_path / "run", config, use_cache=False)
    assert result.model.exists()
    assert len(result.history) == bool(config.epochs) + (config.train_encoder != "none")
    assert all(math.isfinite(row["loss"]) for row in result.history)


def test_the_lecture_is_the_recipe_of_that_name():
    assert config_from_mapping(settings_of("lecture-road.toml")) == recipe("lecture-exact")
