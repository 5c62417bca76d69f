"""The images that an autoencoder learns from."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv import pretrain_images as module
from fullyconv.config import PretrainConfig
from fullyconv.errors import DataError, UsageError
from fullyconv.image_form import ImageForm
from fullyconv.pretrain_images import ImageReader, Picture, collected, split

COLORS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_files_and_arrays_are_named_and_read(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    found = collected([str(tmp_path), COLORS])
    assert [picture.id for picture in found] == ["a", "array-000000"]
    reader = ImageReader(ImageForm(3))
    assert reader.sizes(found) == [(6, 9), (6, 9)]
    for picture in found:
        assert torch.equal(reader.read(picture), torch.from_numpy(COLORS).permute(2, 0, 1))
    with pytest.raises(UsageError, match="got 6 x 9 x 3 float64"):
        collected([COLORS.astype(float)])


def test_what_is_held_out_depends_on_names_and_seed_alone():
    pictures = [Picture(str(number), COLORS) for number in range(10)]
    parts = split(pictures, PretrainConfig(seed=1))
    again = split(pictures[::-1], PretrainConfig(seed=1))
    assert {picture.id for picture in parts["val"]} == {picture.id for picture in again["val"]}
    assert len(parts["train"]) + len(parts["val"]) == 10
    with pytest.raises(DataError, match="expected 2 images or more, got 1"):
        split(pictures[:1], PretrainConfig())


def test_what_does_not_fit_into_memory_is_read_again(monkeypatch):
    monkeypatch.setattr(module, "MEMORY", COLORS.nbytes)
    reader = ImageReader(ImageForm(3))
    first, second = Picture("a", COLORS), Picture("b", COLORS)
    assert reader.read(first) is reader.read(first)
    assert reader.read(second) is not reader.read(second)
