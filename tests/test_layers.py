"""The order of the files is written once in pyproject.toml; the README tells the same story."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def contract(name):
    return next(found for found in LINTER["contracts"] if found["id"] == name)


def tree_of_the_readme():
    """The names in the README's tree, without suffix, from top to bottom."""
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("src/fullyconv/\n")[1].split("```")[0]
    return re.findall(r"^  (\w+)(?:\.py|/)", tree, flags=re.MULTILINE)


def test_every_file_has_its_place():
    source = ROOT / "src" / "fullyconv"
    there = {path.stem for path in source.glob("*.py")} | {
        path.parent.name for path in source.glob("*/__init__.py")
    }
    assert there == {*contract("layers")["layers"], "__init__"}


def test_the_contract_is_exhaustive():
    assert contract("layers")["exhaustive"] is True


def test_the_tree_in_the_readme_has_the_order_of_the_contract():
    assert tree_of_the_readme() == ["__init__", *reversed(contract("layers")["layers"])]


def test_there_are_no_drawers():
    assert not {"utils", "common", "helpers", "base", "core"} & set(contract("layers")["layers"])
