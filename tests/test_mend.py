"""Blurred masks against the sharp ones that they were made from."""

import numpy as np
import pytest
from command_line import run
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.findings import examine
from fullyconv.mend import guessed_table, mask_files, mend


def sharp(seed, values):
    """Rectangles of some values."""
    draw = np.random.default_rng(seed)
    mask = np.full((80, 100), values[0], np.uint8)
    for value in values[1:]:
        top, left = draw.integers(0, 40, 2)
        mask[top : top + 35, left : left + 40] = value
    return mask


def write(root, values, kinds, classes=True):
    """Masks, some as JPEG, of these kinds; the sharp ones are returned."""
    masks = []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, kind in enumerate(kinds):
        masks.append(sharp(number, values))
        Image.fromarray(masks[-1]).save(root / f"masks/{number}.{kind}", quality=85)
        image = np.random.default_rng(number).integers(0, 256, (80, 100, 3), np.uint8)
        Image.fromarray(image).save(root / f"images/{number}.png")
    if classes:
        lines = [f"{value},class {value},{value},{255 - value},7\n" for value in values]
        (root / "classes.txt").write_text("".join(lines))
    return masks


def test_a_jpeg_mask_is_the_sharp_one_or_ignored(tmp_path):
    masks = write(tmp_path, (0, 100, 200), ["png", "jpg", "jpg"])
    data = Dataset.open(tmp_path, faults=[])
    found = examine(data)
    assert found.errors == 2
    mended = mend(data, set(data) - set(found.sound))
    assert mended.count == 2
    ignored = 0
    for sample, mask in zip(mended.dataset, masks, strict=True):
        target = mended.dataset.read_target(sample)
        known = target != 255
        assert np.array_equal(target[known], (mask // 100)[known])
        assert known.mean() > 0.95
        ignored += int((~known).sum())
    assert ignored == mended.ignored
    assert mended.dataset.class_table.names == data.class_table.names


def test_classes_that_are_near_to_each_other_are_left_alone(tmp_path):
    write(tmp_path, (0, 1, 2), ["png", "jpg"])
    data = Dataset.open(tmp_path, faults=[])
    assert mend(data, set(data) - set(examine(data).sound)) is None


@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255), (10, 90, 170, 250)])
def test_values_that_nobody_declared_are_guessed(tmp_path, values):
    write(tmp_path, values, ["jpg"] * 4, classes=False)
    table = guessed_table(mask_files(tmp_path))
    assert table.values == tuple(
        value for value in values if value != 255 or len(values) == 2
    )  # else it is ignored
    assert (table.encoding == "binary") == (values == (0, 255))


@pytest.mark.parametrize("values", [(0, 1, 2), (7,)])
def test_values_that_cannot_be_told_apart_are_not_guessed(tmp_path, values):
    write(tmp_path, values, ["jpg"] * 2, classes=False)
    assert guessed_table(mask_files(tmp_path)) is None


def test_noise_is_no_mask(tmp_path):
    write(tmp_path, (0, 255), ["png", "png"])
    noise = np.random.default_rng(0).integers(0, 256, (80, 100), np.uint8)
    Image.fromarray(noise).save(tmp_path / "masks/1.png")
    table = ClassTable.binary()
    data = Dataset.open(tmp_path, class_table=table, faults=[])
    assert mend(data, [data[1]]) is None
    assert guessed_table([tmp_path / "masks/1.png"]) is None


def test_fix_writes_what_can_be_read_and_mended(tmp_path, monkeypatch, capsys):
    masks = write(tmp_path / "data", (0, 255), ["jpg"] * 3, classes=False)
    (tmp_path / "data/masks/2.jpg").write_bytes(b"gone")
    assert run(monkeypatch, "check", tmp_path / "data", "--fix", tmp_path / "out", "--no-cost") == 2
    said = capsys.readouterr().err
    assert "taken for classes: the values 0, 255" in said
    assert "2 masks are snapped to the values of classes" in said
    found = Dataset.open(tmp_path / "out")
    assert found.class_table.names == ("background", "foreground")
    for sample, mask in zip(found, masks, strict=False):
        target = found.read_target(sample)
        assert np.array_equal(target[target != 255], (mask // 255)[target != 255])
    assert len(found) == 2


def test_files_without_partner_do_not_hide_the_rest(tmp_path, monkeypatch, capsys):
    write(tmp_path / "data", (0, 255), ["png"] * 3)
    (tmp_path / "data/masks/0.png").unlink()
    (tmp_path / "data/images/1.png").unlink()
    assert run(monkeypatch, "check", tmp_path / "data", "--fix", tmp_path / "out", "--no-cost") == 2
    printed = capsys.readouterr().out
    assert "1 of 2 images in" in printed
    assert "1 of 2 masks in" in printed
    assert len(Dataset.open(tmp_path / "out")) == 1


def test_ignored_pixels_stay_ignored_in_sound_and_in_mended_masks(tmp_path):
    masks = write(tmp_path, (0, 60, 120), ["png", "jpg"])
    for number, kind in enumerate(("png", "jpg")):
        masks[number][:16] = 255
        Image.fromarray(masks[number]).save(tmp_path / f"masks/{number}.{kind}", quality=95)
    data = Dataset.open(tmp_path, faults=[])
    mended = mend(data, set(data) - set(examine(data).sound))
    for sample, mask in zip(mended.dataset, masks, strict=True):
        target = mended.dataset.read_target(sample)
        assert (target[:14] == 255).all()
        assert np.array_equal(target[20:][target[20:] != 255], (mask // 60)[20:][target[20:] != 255])
    assert np.array_equal(mended.dataset.read_target(mended.dataset[0]) == 255, masks[0] == 255)


def test_sound_masks_with_a_class_near_255_are_not_touched(tmp_path):
    masks = write(tmp_path, (0, 120, 240), ["png", "jpg"])
    data = Dataset.open(tmp_path, faults=[])
    assert mend(data, set(data) - set(examine(data).sound)) is None
    assert (masks[0] == 240).any()


def test_nothing_is_written_into_the_data(tmp_path, monkeypatch, capsys):
    write(tmp_path / "data", (0, 255), ["png"] * 2)
    assert run(monkeypatch, "check", tmp_path / "data", "--fix", tmp_path / "data" / "fixed", "--no-cost") == 2
    assert "lies in the data set" in capsys.readouterr().err
    assert not (tmp_path / "data" / "fixed").exists()
