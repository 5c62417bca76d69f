"""What archives hold, moved into form: strays stay behind, and what does not fit is named."""

import miniatures
import numpy as np
import pytest
from scipy.io import savemat

from fullyconv.arrange import ARRANGED, require_extra
from fullyconv.errors import DataError, UsageError
from fullyconv.progress import Silent


def arranged(name, parts, folder):
    folder.mkdir()
    ARRANGED[name](parts, folder, Silent())
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def sbd_parts(root, train_noval):
    miniatures.sbd(root / "benchmark_RELEASE" / "dataset")
    miniatures.write_lines(root / "SBD_train_noval.txt", train_noval)
    return root


def test_strays_of_the_pets_stay_behind(tmp_path):
    miniatures.pets(tmp_path / "parts")
    assert arranged("oxford-pets", tmp_path / "parts", tmp_path / "set") == [
        "classes.txt",
        "images/test/Abyssinian_3.jpg",
        "images/test/beagle_4.jpg",
        "images/train/Abyssinian_1.jpg",
        "images/train/beagle_2.jpg",
        "masks/test/Abyssinian_3.png",
        "masks/test/beagle_4.png",
        "masks/train/Abyssinian_1.png",
        "masks/train/beagle_2.png",
    ]
    lines = (tmp_path / "set" / "classes.txt").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [["1", "pet"], ["2", "background"], ["3", "border"]]


def test_lists_and_classes_of_sbd_are_written(tmp_path):
    parts = sbd_parts(tmp_path / "parts", ["2008_000002"])
    names = ["2007_000032", "2007_000033", "2007_000042", "2008_000002", "2008_000007"]
    assert arranged("sbd", parts, tmp_path / "set") == [
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
        *(f"JPEGImages/{name}.jpg" for name in names),
        *(f"SegmentationClass/{name}.png" for name in names),
        "classes.txt",
    ]
    assert (tmp_path / "set" / "classes.txt").read_text().splitlines()[2] == "1,aeroplane,128,0,0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"GTcls": {"Segmentation": np.zeros((4, 5))}}, r"expected H x W uint8, got float64 \(4, 5\)"),
        ({"GTcls": {"Segmentation": np.zeros((4, 5, 3), np.uint8)}}, r"got uint8 \(4, 5, 3\)"),
        ({"GTcls": {"Boundaries": 1}}, "expected SBD's GTcls.Segmentation, got none"),
        ({"GTinst": {"Segmentation": 1}}, "expected SBD's GTcls.Segmentation, got none"),
    ],
)
def test_a_matlab_file_with_something_else_is_named(content, message, tmp_path):
    parts = sbd_parts(tmp_path / "parts", ["2008_000002"])
    savemat(parts / "benchmark_RELEASE/dataset/cls/2007_000042.mat", content)
    with pytest.raises(DataError, match=f"2007_000042.mat: .*{message}"):
        arranged("sbd", parts, tmp_path / "set")


def test_an_image_of_camvid_without_a_mask_is_named(tmp_path):
    miniatures.camvid_of_fast_ai(tmp_path / "parts" / "camvid")
    (tmp_path / "parts/camvid/labels/0016E5_00001_P.png").unlink()
    with pytest.raises(DataError, match=r"the archives should hold 0016E5_00001_P\.png, they do not"):
        arranged("camvid", tmp_path / "parts", tmp_path / "set")


def test_an_extra_is_required_by_name(monkeypatch):
    require_extra("sbd")
    monkeypatch.setattr("fullyconv.arrange.find_spec", lambda name: None)
    require_extra("")
    with pytest.raises(UsageError, match=r'which SciPy reads.* pip install "fullyconv\[sbd\]"'):
        require_extra("sbd")
