"""CamVid as its authors publish it: colours, Void, and files without partner."""

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

SKY, ROAD, VOID, CAR = (128, 128, 128), (128, 64, 128), (0, 0, 0), (64, 0, 128)


@pytest.fixture
def root(tmp_path):
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    for name, colors in (("0001TP_006690", [SKY, ROAD, VOID]), ("Seq05VD_f00000", [CAR, CAR, ROAD])):
        Image.new("RGB", (3, 1)).save(tmp_path / "701_StillsRaw_full" / f"{name}.png")
        Image.fromarray(np.uint8([colors])).save(tmp_path / "LabeledApproved_full" / f"{name}_L.png")
    return tmp_path


def test_colours_are_the_32_of_the_authors_and_void_is_ignored(root):
    data = Dataset.open(root)
    names = data.class_table.names
    assert len(names) == 31
    assert "Void" not in names
    assert [sample.id for sample in data] == ["0001TP_006690", "Seq05VD_f00000"]
    targets = [data.read_target(sample)[0].tolist() for sample in data]
    assert [[names[i] if i < 255 else None for i in row] for row in targets] == [
        ["Sky", "Road", None],
        ["Car", "Car", "Road"],
    ]


def test_the_file_of_colours_counts_where_it_is_there(root):
    lines = ["128 128 128\t\tHimmel", "128 64 128\tStraße", "64 0 128\tAuto", "0 0 0\tVoid"]
    (root / "label_colors.txt").write_text("\n".join(lines), encoding="utf-8")
    assert Dataset.open(root).class_table.names == ("Himmel", "Straße", "Auto")
    (root / "label_colors.txt").write_text("128 128 Sky\n")
    with pytest.raises(DataError, match=r"label_colors\.txt, line 1: expected red green blue name"):
        Dataset.open(root)


def test_a_file_without_partner_is_named(root):
    (root / "LabeledApproved_full" / "0001TP_006690_L.png").unlink()
    with pytest.raises(DataError, match="1 of 2 images and 1 masks have no partner: 0001TP_006690"):
        Dataset.open(root)


def test_masks_alone_are_refused(root):
    for file in (root / "701_StillsRaw_full").iterdir():
        file.unlink()
    (root / "701_StillsRaw_full").rmdir()
    with pytest.raises(DataError, match="expected 701_StillsRaw_full/ beside LabeledApproved_full/"):
        Dataset.open(root)
