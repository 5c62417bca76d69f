"""The demo goes the whole way, on a few small images here."""

import pytest

from fullyconv.config import recipe
from fullyconv.demo import demo, next_demo_folder
from fullyconv.errors import UsageError
from fullyconv.progress import Silent


class Listening(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_the_demo_trains_measures_predicts_and_says_what_comes_next(tmp_path):
    listening = Listening()
    config = recipe(epochs=1, steps=0, threads=1, scales=(1.0,), pixels=64)
    demo(tmp_path / "demo", listening, config=config, images=(3, 1, 2), size=(64, 64))
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"best.safetensors", "validation.png", "curves.png", "confusion.png", "predictions"} <= names
    assert len(list((tmp_path / "demo" / "predictions").glob("*_overlay.png"))) == 2
    assert "fullyconv train DATA" in listening.lines[-1]


def test_the_demo_never_overwrites(tmp_path):
    (tmp_path / "demo").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        demo(tmp_path / "demo", Silent())


def test_a_second_demo_goes_to_a_folder_of_its_own(tmp_path):
    assert next_demo_folder(tmp_path) == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    assert next_demo_folder(tmp_path) == tmp_path / "demo-2"
    (tmp_path / "demo-2-data").mkdir()
    assert next_demo_folder(tmp_path) == tmp_path / "demo-3"
