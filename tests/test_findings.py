"""Each kind of broken data set, and the words that it is found with."""

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.findings import class_widths, examine

NAMES = ["background", "crack", "pit"]


def photo(seed, size=(64, 80)):
    """A picture with structure: a few grey levels on a coarse grid, enlarged."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def target(*boxes, size=(64, 80)):
    mask = np.zeros(size, np.uint8)
    for index, (top, left, bottom, right) in boxes:
        mask[top:bottom, left:right] = index
    return mask


WIDE = target((1, (8, 8, 40, 40)), (2, (30, 50, 60, 70)))


def put(root, name, image=None, mask=WIDE, split="train", **options):
    for kind, array in (("images", image), ("masks", mask)):
        path = root / kind / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:
            Image.fromarray(array).save(path, **(options if kind == "images" else {}))


@pytest.fixture
def sound(tmp_path):
    """Four different images for training and two for validation, nothing wrong with them."""
    for number in range(4):
        put(tmp_path, f"t{number}", photo(number))
    for number in range(2):
        put(tmp_path, f"v{number}", photo(10 + number), split="val")
    return tmp_path


def found(root, **options):
    return examine(Dataset.open(root, classes=NAMES, **options)).findings


def the(findings, kind):
    (finding,) = [finding for finding in findings if finding.kind == kind]
    return finding


def test_nothing_is_found_where_nothing_is_wrong(sound):
    examination = examine(Dataset.open(sound, classes=NAMES))
    assert examination.findings == ()
    assert examination.errors == 0
    assert examination.sound.samples == examination.dataset.samples
    assert examination.summaries["train"].image_counts.tolist() == [4, 4, 4]


def test_files_that_cannot_be_read_are_all_named(sound):
    for number in range(3):
        (sound / f"images/train/t{number}.png").write_bytes(b"\x89PNG\r\n")
    put(sound, "t3", photo(3), WIDE[:, :40])
    examination = examine(Dataset.open(sound, classes=NAMES))
    unreadable = [finding for finding in examination.findings if finding.kind == "unreadable"]
    assert [finding.level for finding in unreadable] == ["error"] * 4
    assert "t0.png" in unreadable[0].text
    assert "expected the size of" in unreadable[3].text
    assert examination.errors == 4
    assert [sample.id for sample in examination.sound] == ["v0", "v1"]


def test_a_value_that_is_no_class(sound):
    put(sound, "t0", photo(0), target((7, (1, 1, 5, 5))))
    finding = the(found(sound), "unreadable")
    assert "mask value 7 (16 pixels, first at row 1, column 1) is not one of the 3 class values" in finding.text


def test_a_lossy_mask(sound):
    path = sound / "masks/train/t0.png"
    Image.fromarray(WIDE).save(path, "JPEG")
    with pytest.raises(Exception, match="lossless format, got JPEG"):
        found(sound)  # what the masks are is not known before all are opened


def test_the_same_image_in_two_splits_is_an_error(sound):
    put(sound, "v0", photo(2), split="val")
    finding = the(found(sound), "leak")
    assert (finding.level, finding.files) == ("error", ("train/t2 = val/v0",))


def test_nearly_the_same_image_in_two_splits_is_a_warning(sound):
    image = photo(2).astype(np.int16) + np.random.default_rng(0).integers(-4, 5, (64, 80, 3)) + 12
    put(sound, "v0", np.clip(image, 0, 255).astype(np.uint8), split="val")
    finding = the(found(sound), "near-leak")
    assert (finding.level, finding.files) == ("warning", ("val/v0 ~ train/t2",))


def test_images_without_contrast_are_not_taken_for_copies(sound):
    for split, grey in (("train", 90), ("val", 91)):
        put(sound, f"{split}grey", np.full((64, 80, 3), grey, np.uint8), split=split)
    assert not found(sound)


def test_an_image_that_is_there_twice(sound):
    put(sound, "t9", photo(1))
    assert the(found(sound), "twice").files == ("t1 = t9",)


def test_classes_that_train_lacks_or_nobody_has(sound):
    for number in range(4):
        put(sound, f"t{number}", photo(number), target((1, (8, 8, 40, 40))))
    assert "classes in val that train never has: pit" in the(found(sound), "not-in-train").text
    for number in range(2):
        put(sound, f"v{number}", photo(10 + number), target((1, (8, 8, 40, 40))), split="val")
    assert the(found(sound), "absent").text == "classes that no mask has: pit"


def test_a_class_in_one_image_alone(sound):
    for number in range(1, 4):
        put(sound, f"t{number}", photo(number), target((1, (8, 8, 40, 40))))
    assert the(found(sound), "rare").text == "classes in fewer than three training images: pit"


@pytest.mark.parametrize(("width", "level"), [(3, "warning"), (6, "note"), (9, None)])
def test_a_narrow_class(sound, width, level):
    for split, names in (("train", "t0 t1 t2 t3"), ("val", "v0 v1")):
        for number, name in enumerate(names.split()):
            mask = target((1, (2, 5, 62, 5 + width)), (2, (30, 50, 60, 70)))
            put(sound, name, photo(number + 10 * (split == "val")), mask, split=split)
    findings = [finding for finding in found(sound) if finding.kind == "narrow"]
    assert [finding.level for finding in findings] == ([level] if level else [])
    if level:
        assert f"class crack is {width} px wide: an FCN-32s" in findings[0].text


def test_masks_without_a_label_or_with_one_class_alone(sound):
    put(sound, "t0", photo(0), np.full((64, 80), 255, np.uint8))
    put(sound, "t1", photo(1), target())
    findings = found(sound)
    assert the(findings, "unlabelled").files == ("t0.png",)
    constant = the(findings, "constant")
    assert (constant.level, constant.text) == ("note", "1 masks (17%) hold nothing but the class background")


def test_masks_that_are_nearly_all_constant_are_suspicious(tmp_path):
    for number in range(20):
        put(tmp_path, f"a{number}", photo(number), target() if number else WIDE)
    put(tmp_path, "b", photo(30), WIDE, split="val")
    assert the(found(tmp_path), "constant").level == "warning"


def test_an_image_turned_by_exif(sound):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(sound, "t0", np.ascontiguousarray(np.rot90(photo(0))), exif=exif)
    assert the(found(sound), "exif").files == ("t0.png",)


def test_16_bit_images_that_turn_black(sound):
    deep = np.random.default_rng(0).integers(0, 4096, (64, 80)).astype(np.uint16)
    deep[0, 0] = 4095
    Image.fromarray(deep).save(sound / "images/train/t0.png")
    finding = the(found(sound), "dark-16-bit")
    assert "less than a quarter of the range (highest value 4095)" in finding.text
    Image.fromarray(deep * 16).save(sound / "images/train/t0.png")
    assert not [finding for finding in found(sound) if finding.kind == "dark-16-bit"]


def test_one_class_alone_is_an_error(tmp_path):
    put(tmp_path, "a", photo(0), target())
    assert the(found(tmp_path), "one-class").level == "error"


@pytest.mark.parametrize("seed", range(10))
def test_widths_are_the_shorter_of_two_runs(seed):
    draw = np.random.default_rng(seed)
    mask = draw.choice([0, 1, 2, 255], draw.integers(1, 12, 2)).astype(np.uint8)
    counts = np.zeros((3, 256), np.int64)
    for (row, column), index in np.ndenumerate(mask):
        if index == 255:
            continue
        runs = []
        for line, place in ((mask[row], column), (mask[:, column], row)):
            first = last = place
            while first > 0 and line[first - 1] == index:
                first -= 1
            while last + 1 < len(line) and line[last + 1] == index:
                last += 1
            runs.append(last - first + 1)
        counts[index, min(runs)] += 1
    assert (class_widths(mask, 3) == counts).all()


def test_as_json_everything_is_there(sound):
    put(sound, "v0", photo(2), split="val")
    document = examine(Dataset.open(sound, classes=NAMES)).to_json()
    assert document["samples"] == document["sound"] == 6
    assert document["splits"]["train"]["images_with"] == {"background": 4, "crack": 4, "pit": 4}
    assert document["class_widths"]["pit"] == 20
    assert [finding["kind"] for finding in document["findings"]] == ["leak"]
