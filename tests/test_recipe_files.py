"""The files in recipes/: each says what it is, and runs from end to end on a miniature of its data set."""

from pathlib import Path

import pytest

from fullyconv.config import config_from_mapping
from fullyconv.settings import read_config

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
    config_from_mapping(settings_of(name), source=name)
