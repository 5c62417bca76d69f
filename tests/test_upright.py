"""Images and masks as they are meant to be seen."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from test_images import COLORS, VALUES, saved

from fullyconv.images import image_size, read_image, read_mask_array, verify_image


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_by_their_orientation(tmp_path, suffix, orientation):
    path = saved(tmp_path / f"a{suffix}", COLORS, exif=with_orientation(orientation))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    assert verify_image(path) == expected.shape[:2]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_upright_by_their_orientation(tmp_path, suffix, orientation):
    path = saved(tmp_path / f"a{suffix}", VALUES, exif=with_orientation(orientation))
    with path.open("rb") as file, Image.open(file) as image:  # by name, Pillow maps TIFF and misreads its size
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_mask_array(path), expected)


def test_words_behind_the_pixels_are_no_reason_to_decode_them(tmp_path, monkeypatch):
    """A thousand million pixels are 120 kB, and 1 GB when they are decoded."""
    data = saved(tmp_path / "a.png", COLORS).read_bytes()
    path = tmp_path / "b.png"
    path.write_bytes(
        data[:-12] + struct.pack(">I4s3sI", 3, b"tEXt", b"a\0b", zlib.crc32(b"tEXta\0b")) + data[-12:]
    )
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    assert image_size(path) == COLORS.shape[:2]


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    path = saved(tmp_path / "a.png", COLORS, exif=with_orientation(6))
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert image_size(path) == (9, 6)
    assert read_image(path).shape == (9, 6, 3)


def test_an_orientation_in_xmp_counts(tmp_path):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    path = saved(tmp_path / "a.png", COLORS, pnginfo=info)
    assert image_size(path) == read_image(path).shape[:2]


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    path = saved(tmp_path / "a.jpg", COLORS, exif=b"Exif\0\0nonsense")
    assert read_image(path).shape == (6, 9, 3)
    assert image_size(path) == (6, 9)
