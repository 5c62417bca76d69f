"""Images found among what is named, and names that never collide."""

import pytest
from PIL import Image

from fullyconv.errors import UsageError
from fullyconv.image_files import find_images


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def test_images_are_found_in_files_folders_and_globs(tmp_path):
    make(tmp_path, "one.png", "more/two.JPG", "more/deep/three.png", "globbed/four.png", "globbed/five.jpg")
    (tmp_path / "more" / "notes.txt").write_text("no image")
    found = find_images([tmp_path / "one.png", tmp_path / "more", str(tmp_path / "globbed" / "*.png")])
    assert list(found) == ["one", "deep/three", "two", "four"]


def test_names_that_would_collide_are_told_apart(tmp_path):
    make(tmp_path, "x/a.png", "x/a.jpg", "y/a.png", "z/A.png")
    found = find_images([tmp_path / "x", tmp_path / "y", tmp_path / "z"])
    assert sorted(found) == ["A_3", "a", "a_2", "a_png"]
    assert len({name.casefold() for name in found}) == len(set(found.values())) == 4


def test_an_overlay_never_takes_the_name_of_another_mask(tmp_path):
    endings = ("", "_overlay", "_probabilities", "_confidence", "_margin")
    make(tmp_path, *(f"a{ending}.png" for ending in endings))
    outputs = [f"{name}{ending}" for name in find_images([tmp_path]) for ending in endings]
    assert len(set(outputs)) == len(outputs) == 25


def test_the_same_file_given_twice_is_predicted_once(tmp_path):
    make(tmp_path, "a.png")
    assert len(find_images([tmp_path / "a.png", tmp_path])) == 1


def test_an_input_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no image found at .*nowhere"):
        find_images([tmp_path / "nowhere"])
