"""The documentation cannot drift: its Python runs, its reference is generated, its links lead somewhere."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import fullyconv
from fullyconv import cli
from fullyconv.config import TrainConfig, config_from_mapping, recipe
from fullyconv.dataset import Dataset
from fullyconv.options import parsed
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)])
REFERENCE = runpy.run_path(str(DOCS / "make_reference.py"))["pages"]()

PYTHON = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
LANGUAGE = re.compile(r"^```(.*)$", flags=re.MULTILINE)


def relative(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    """A folder as `make demo` leaves it, with a data set `data` beside: small and barely trained."""
    folder = tmp_path_factory.mktemp("work")
    write_dataset(folder / "data", train=4, val=2, test=2, size=(96, 96))
    shutil.copytree(folder / "data", folder / "runs" / "demo-data")
    train(Dataset.open(folder / "data"), folder / "runs/demo", recipe("fast", epochs=1, steps=0))
    return folder


@pytest.fixture
def workplace(after_the_demo, tmp_path, monkeypatch):
    shutil.copytree(after_the_demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON.search(page.read_text("utf-8"))], ids=relative)
def test_the_python_of_a_page_runs(page, workplace):
    text = page.read_text(encoding="utf-8")
    names = {}
    for block in PYTHON.finditer(text):
        # Empty lines in front: a traceback then names the line of the page.
        lines = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines + block[1], str(page), "exec"), names)


@pytest.mark.parametrize("file", sorted(REFERENCE))
def test_a_reference_page_is_what_the_package_says(file):
    page = DOCS / "reference" / file
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    assert written == REFERENCE[file], "run `.venv/bin/python docs/make_reference.py`"


def test_there_is_no_reference_page_of_something_gone():
    assert {page.name for page in (DOCS / "reference").glob("*.md")} == {"index.md", *REFERENCE}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_has_a_language(page):
    fences = LANGUAGE.findall(page.read_text(encoding="utf-8"))
    assert all(language for language in fences[::2])
    assert not any(fences[1::2])


def test_the_changelog_speaks_of_this_version():
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    assert newest == "Unreleased" or newest.split()[0].strip("[]") == fullyconv.__version__


def test_the_readme_is_short_and_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.sub(r"^```text\nsrc/.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    assert len(lines) <= 90  # and the tree, a line a file
    beginning = "\n".join(lines[:35])
    assert "make demo" in beginning
    assert "make test" in beginning


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_use_the_words_of_the_glossary(page):
    text = page.read_text(encoding="utf-8").lower()
    for word in ("backbone", "ground truth", "label map", "miou"):
        assert not re.search(rf"\b{word}\b", text), word


# ---- the lecture, slide by slide ----

LECTURE = (DOCS / "lecture.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^\$ fullyconv (.+)$", flags=re.MULTILINE)
KNOWN = get_command(cli.app).commands

# What makes training on the page short; of an option given twice the last one counts.
SHORT = "--epochs 1 --steps 0 --batch 1 --threads 1 --patience 0"
SHORT_LECTURE = "--epochs 1 --epoch-steps 2 --batch 2 --width 4 --threads 1"


def test_the_commands_of_the_lecture_page_can_be_understood():
    understood = [shlex.split(line) for line in COMMAND.findall(LECTURE) if line.split()[0] in KNOWN]
    assert {words[0] for words in understood} >= {"train", "predict"}
    for verb, *words in understood:
        context = KNOWN[verb].make_context(verb, words)
        assert context.params.get("recipe", "default") in ("default", "lecture-exact")


def test_the_recipe_of_the_lecture_is_the_options_that_its_page_lists():
    words = [w for cell in re.findall(r"^\| `(--[^|]+)` \|", LECTURE, flags=re.MULTILINE) for w in cell.split()]
    options = KNOWN["train"].make_context("train", ["DATA", *words]).params
    settings = {name: value for name, value in options.items() if name in TrainConfig.__dataclass_fields__}
    assert config_from_mapping(parsed(TrainConfig, settings)) == recipe("lecture-exact")


@pytest.mark.slow
def test_the_lecture_page_can_be_followed_from_top_to_bottom(workplace, monkeypatch):
    names = {}
    for block in re.finditer(r"^```(python|console)\n(.*?)^```$", LECTURE, flags=re.MULTILINE | re.DOTALL):
        if block[1] == "python":
            exec(block[2], names)
            continue
        for line in COMMAND.findall(block[2]):
            words = shlex.split(line)
            if words[0] not in KNOWN or any("cae" in word for word in words):
                continue  # needs what another page is about
            if words[0] == "train":
                words += shlex.split(SHORT_LECTURE if "lecture-exact" in words else SHORT)
            monkeypatch.setattr(sys, "argv", ["fullyconv", *words])
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert not end.value.code, line
    assert Path("runs/result/images_testing/0_lecture_overlay.png").exists()
