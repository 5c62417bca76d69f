"""The page of `fullyconv check`, the command and its exit codes."""

import json
import re

import numpy as np
import pytest
from command_line import answer
from PIL import Image
from test_findings import NAMES, photo, put, sound  # noqa: F401 - a fixture

from fullyconv.check_page import check_page, contact_sheet
from fullyconv.dataset import Dataset
from fullyconv.findings import examine


@pytest.fixture
def run(monkeypatch):
    return lambda *arguments: answer(monkeypatch, "check", *arguments)


@pytest.fixture
def examined(sound):  # noqa: F811
    put(sound, "v0", photo(2), split="val")
    put(sound, "<b>&t", photo(7))
    return examine(Dataset.open(sound, classes=[*NAMES[:2], "<pit>"]))


def test_the_page_needs_no_network_and_escapes_names(examined):
    page = check_page(examined, ["features of 9 views"])
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "<b>&t" not in page
    assert "&lt;pit&gt;" in page
    assert "features of 9 views" in page
    assert '<div class="finding error">' in page
    assert page.count("data:image/png;base64,") == 1


def test_the_contact_sheet_shows_samples_in_their_colours(examined):
    picture = contact_sheet(examined)
    assert picture.shape[2] == 3
    assert picture.std() > 20
    none = examine(Dataset(examined.dataset.root, examined.dataset.class_table, ()))
    assert contact_sheet(none) is None


def test_the_command_says_everything_and_fails_on_errors_alone(sound, tmp_path_factory, run):  # noqa: F811
    (sound / "classes.txt").write_text("0,background,0,0,0\n1,crack,9,0,0\n2,pit,0,9,0\n")
    good = run(sound)
    assert (good.returncode, good.stderr.count("\n")) == (0, 1)
    assert "train: 4 images of 64 x 80 pixels" in good.stdout
    assert re.search(
        r"default recipe: features of 10 views take about .*, once, and up to .* of disk", good.stdout
    )
    assert good.stdout.endswith("nothing is wrong\n")
    out = tmp_path_factory.mktemp("out")
    (sound / "images/train/t0.png").write_bytes(b"nothing")
    before = sorted((path, path.stat().st_mtime_ns) for path in sound.rglob("*"))
    bad = run(sound, "--json", "--html", out / "page.html", "--fix", out / "fixed")
    assert bad.returncode == 2
    (finding,) = json.loads(bad.stdout)["findings"]
    assert (finding["level"], finding["kind"]) == ("error", "unreadable")
    assert "t0.png" in (out / "page.html").read_text()
    assert sorted(sample.id for sample in Dataset.open(out / "fixed")) == ["t1", "t2", "t3", "v0", "v1"]
    assert sorted((path, path.stat().st_mtime_ns) for path in sound.rglob("*")) == before
    again = run(sound, "--html", out / "page.html")
    assert (again.returncode, "page.html exists already" in again.stderr) == (2, True)


def test_what_cannot_be_opened_at_all_is_a_finding_too(tmp_path, run):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    done = run(tmp_path, "--json")
    assert done.returncode == 2
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["kind"] == "layout"
    assert finding["text"] in done.stderr
