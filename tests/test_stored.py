"""Numbers of image files as they are stored, against the arrays that were written."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullyconv import stored
from fullyconv.errors import DataError
from fullyconv.stored import is_tiff, pillow_values, read_stored, stored_size

FULL = np.random.default_rng(0).integers(0, 65536, (13, 17, 5), np.uint16)


def png_of_16_bits(values):
    import imagecodecs

    return imagecodecs.png_encode(np.ascontiguousarray(values))


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (FULL, {"photometric": "minisblack", "planarconfig": "contig"}),
        (np.moveaxis(FULL, 2, 0), {"photometric": "minisblack", "planarconfig": "separate"}),
        (FULL[..., 0], {"photometric": "minisblack"}),
        (FULL[..., :3], {"photometric": "rgb"}),
        (FULL[..., :4], {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "zlib"}),
        (FULL.astype(np.float32) / 7, {"photometric": "minisblack", "planarconfig": "contig"}),
        (FULL[..., 0].astype(np.int16), {"photometric": "minisblack", "compression": "lzw"}),
    ],
)
def test_a_tiff_of_any_kind_gives_the_numbers_that_were_written(tmp_path, values, options):
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    found = read_stored(tmp_path / "a.tif")
    expected = np.moveaxis(values, 0, 2) if options.get("planarconfig") == "separate" else values
    assert np.array_equal(found, expected.reshape(13, 17, -1))
    assert found.dtype == values.dtype
    assert stored_size(tmp_path / "a.tif") == (13, 17)
    assert is_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [3, 4])
def test_png_with_16_bit_colours_keeps_all_bits(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(png_of_16_bits(FULL[..., :channels]))
    assert np.array_equal(read_stored(tmp_path / "a.png"), FULL[..., :channels])
    assert stored_size(tmp_path / "a.png") == (13, 17)


def test_without_what_reads_it_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_of_16_bits(FULL[..., :3]))
    monkeypatch.setattr(stored, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'a\.png: colours of 16 bits need imagecodecs \(.*"fullyconv\[large\]"'):
        read_stored(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("CMYK", 4), ("I;16", 1), ("1", 1)]
)
def test_every_plain_mode_of_pillow_keeps_its_channels(mode, channels):
    image = Image.new(mode, (7, 5))
    assert pillow_values(image).shape == (5, 7, channels)


def test_a_palette_is_refused(tmp_path):
    Image.new("P", (3, 3)).save(tmp_path / "p.png")
    with pytest.raises(DataError, match=r"p\.png: expected an image of plain channels, got Pillow mode P"):
        read_stored(tmp_path / "p.png")


def test_exif_orientation_is_applied(tmp_path):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_stored(tmp_path / "a.png")[..., 0], np.rot90(values, -1))
    assert stored_size(tmp_path / "a.png") == (3, 2)


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", b"II*\0" + bytes(50), b"\x89PNG\r\n\x1a\n" + bytes(9), b"MM\0+" + b"\xff" * 30]
)
def test_damaged_files_are_refused_by_name(tmp_path, data):
    (tmp_path / "broken.tif").write_bytes(data)
    for read in (read_stored, stored_size):
        with pytest.raises(DataError, match=r"broken\.tif"):
            read(tmp_path / "broken.tif")


def test_several_images_in_a_file_are_no_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FULL[..., 0])
        file.write(FULL[:5, ..., 0])
    with pytest.raises(DataError, match="expected one image, got 2"):
        read_stored(tmp_path / "a.tif")


def test_a_bomb_is_refused_from_its_header(tmp_path):
    tifffile.imwrite(tmp_path / "bomb.tif", shape=(30_000, 30_000), dtype=np.uint8)  # a hole in the file
    with pytest.raises(DataError, match="900 million pixels"):
        read_stored(tmp_path / "bomb.tif")


def test_more_channels_than_wanted_are_refused_unread(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "many.tif", shape=(50, 60, 900), dtype=np.uint16, photometric="minisblack")
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    with pytest.raises(DataError, match="expected 2 channels, got 50"):  # pages are channels
        read_stored(tmp_path / "many.tif", channels=2)


def test_values_of_which_0_is_white_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", FULL[..., 0], photometric="miniswhite")
    with pytest.raises(DataError, match="values of which 0 is white"):
        read_stored(tmp_path / "a.tif")
