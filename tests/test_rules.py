"""Rules on masks: what is counted, and files that are wrong."""

import csv

import numpy as np
import pytest
import torch
from command_line import answer
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.rules import judge, read_rules

TABLE = ClassTable.from_names(["background", "crack", "pit"])

MASK = np.zeros((40, 60), np.uint8)
MASK[2:4, 5:35] = 1  # 2 x 30 pixels
MASK[10:13, 10:14] = 1  # 3 x 4 pixels, diagonal 5
MASK[30, 50] = 1  # a speck
MASK[20:30, 20:30] = 2
MASK[23:27, 23:27] = 0  # with a hole: 84 pixels


def rules_of(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return read_rules(path, TABLE)


def verdict(tmp_path, text, head=""):
    (found,) = judge(MASK, TABLE, rules_of(tmp_path, f"{head}\n[[rule]]\n{text}\n"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class='crack'\nmax_count=3", (True, 3, 73)),
        ("class='crack'\nmax_count=2", (False, 3, 73)),
        ("class='crack'\nfrom_area=2\nmax_count=2", (True, 2, 72)),
        ("class='crack'\nfrom_length=6\nmax_count=0", (False, 1, 60)),
        ("class='crack'\nmax_area=72.5", (False, 3, 73)),
        ("class='crack'\nmax_length=30.1", (True, 3, 73)),
        ("class='crack'\nmax_length=30", (False, 3, 73)),
        ("class='crack'\nregion=[8, 8, 20, 20]\nmax_length=5", (True, 1, 12)),
        ("class='crack'\nregion=[8, 0, 12, 40]\nmax_count=9", (True, 2, 14)),
        ("class='pit'\nmax_area=84", (True, 1, 84)),
        ("class='pit'\nmax_area=83", (False, 1, 84)),
        ("class='pit'\nregion=[0, 0, 5, 5]\nmax_count=0", (True, 0, 0)),
    ],
)
def test_objects_are_counted_measured_and_located(tmp_path, text, expected):
    found = verdict(tmp_path, text)
    assert (found.passed, found.count, found.area) == expected


def test_lengths_are_the_greatest_distance_of_two_corners(tmp_path):
    assert verdict(tmp_path, "class='crack'\nmax_length=99").length == pytest.approx(np.hypot(30, 2))
    draw = np.random.default_rng(0)
    for _ in range(20):
        mask = (draw.random((9, 12)) < 0.7).astype(np.uint8)
        rules = rules_of(tmp_path, "[[rule]]\nclass='crack'\nfrom_area=1\nmax_length=1")
        (found,) = judge(mask, TABLE, rules)
        from fullyconv.regions import trace

        corners = [outline.rings[0] for outline in trace(mask == 1)]
        slow = max(np.hypot(*(one - other)) for ring in corners for one in ring for other in ring)
        assert found.length == pytest.approx(slow)


def test_millimetres(tmp_path):
    found = verdict(tmp_path, "class='crack'\nunit='mm'\nmax_length=15\nname='long'", "mm_per_pixel = 0.5")
    assert (found.rule, found.passed) == ("long", False)
    assert found.length == pytest.approx(0.5 * np.hypot(30, 2))
    assert found.area == pytest.approx(73 * 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rule: Field required"),
        ("[[rule]]\n", "rule.1.class: Field required"),
        ("[[rule]]\nclass='crack'", "rule.1: give max_count, max_area or max_length"),
        (
            "[[rule]]\nclass='crack'\nmax_count=-1",
            "rule.1.max_count: Input should be greater than or equal to 0, got -1",
        ),
        ("[[rule]]\nclass='crack'\nmax_lenght=1", "rule.1.max_lenght: Extra inputs are not permitted"),
        ("[[rule]]\nclass='crack'\nmax_count=1\nunit='cm'", "rule.1.unit: Input should be 'px' or 'mm', got cm"),
        ("[[rule]]\nclass='crack'\nmax_area=nan", "rule.1.max_area"),
        ("[[rule]]\nclass='crack'\nmax_count=1\nunit='mm'", "rules: rules in mm need mm_per_pixel"),
        (
            "[[rule]]\nclass='crack'\nmax_count=1\nregion=[5,5,5,9]",
            "rule.1: region has to be left, top, right, bottom",
        ),
        (
            "[[rule]]\nclass='dent'\nmax_count=1",
            r"expected a class of the model \(background, crack, pit\), got 'dent'",
        ),
        ("[[rule", "expected TOML, got a file that is none"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        rules_of(tmp_path, text)
    assert "rules.toml" in caught.value.message
    with pytest.raises(UsageError, match="cannot read the rules: No such file"):
        read_rules(tmp_path / "none.toml", TABLE)


def test_the_exit_code_says_whether_one_fails(tmp_path, monkeypatch):
    torch.manual_seed(1)
    save_model(FCN.build(TABLE, decoder="practical", stride=8, hidden=4), tmp_path / "m.safetensors")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def run(out, text):
        (tmp_path / "rules.toml").write_text(f"[[rule]]\nclass='{text}'\nmax_count=0\n")
        command = ["predict", tmp_path / "m.safetensors", tmp_path / "a.png", "-o", tmp_path / out]
        return answer(monkeypatch, *command, "--rules", tmp_path / "rules.toml")

    # All scores of an untrained model are 0, and of equal ones the first class wins.
    failed = run("out1", "background")
    assert (failed.returncode, "1 of 1 images fail the rules: a" in failed.stderr) == (1, True)
    with (tmp_path / "out1" / "verdicts.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["rule"], row["verdict"], row["count"], row["area"]) == (
        "a",
        "background",
        "fail",
        "1",
        "1200",
    )
    assert run("out2", "crack").returncode == 0
    wrong = run("out3", "dent")
    assert (wrong.returncode, (tmp_path / "out3").exists()) == (2, False)
