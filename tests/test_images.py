import io
import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullyconv.errors import DataError, UsageError
from fullyconv.images import (
    image_size,
    mask_mode,
    opened,
    read_image,
    read_mask_array,
    show_path,
    to_rgb,
    verify_image,
    write_image,
    write_mask,
)

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
VALUES = np.arange(54, dtype=np.uint8).reshape(6, 9)


def saved(path, image, **options):
    """Save a Pillow image or an array and return the path."""
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color_type, rows):
    """A PNG of raw scan lines, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


# ---- modes of images ----


def test_grey_is_repeated():
    np.testing.assert_array_equal(to_rgb(Image.fromarray(VALUES)), np.stack([VALUES] * 3, axis=2))


def test_one_bit_is_black_and_white():
    image = Image.fromarray(VALUES > 20)
    assert image.mode == "1"
    np.testing.assert_array_equal(to_rgb(image)[..., 1], np.where(VALUES > 20, 255, 0))


def test_alpha_is_dropped_and_the_colour_beneath_kept():
    alpha = RNG.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(np.concatenate([COLORS, alpha], 2))), COLORS)
    grey = Image.fromarray(np.concatenate([VALUES[..., None], alpha], 2), "LA")
    np.testing.assert_array_equal(to_rgb(grey)[..., 0], VALUES)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(54))])
def test_palettes_are_looked_up_transparent_or_not(tmp_path, transparency):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(VALUES)
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", image, **options)), palette[VALUES])


def test_palettes_with_alpha_are_looked_up():
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(VALUES)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(to_rgb(image.convert("PA")), palette[VALUES])


def test_sixteen_bits_are_scaled_over_their_full_range(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    path = saved(tmp_path / "a.png", values)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, axis=2))
    assert expected.max() == 255


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_of_either_byte_order_is_scaled(tmp_path, order):
    values = (VALUES.astype(np.uint16) * 1000).astype(order)
    path = tmp_path / "a.tif"
    mode = "I;16B" if order == ">u2" else "I;16"
    Image.frombytes(mode, (9, 6), values.tobytes()).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 2], np.rint(values / 257).astype(np.uint8))


def test_integers_beyond_16_bits_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(DataError, match=r"a\.tif: expected values 0\.\.65535, got 70000") as caught:
        read_image(path)
    assert caught.value.hint == "save it as 16-bit PNG"


def test_float_images_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match=r"a\.tif: expected an image of 8 or 16 bits.* mode F"):
        read_image(path)
    with pytest.raises(DataError, match="mode F"):
        verify_image(path)


def test_cmyk_is_ink_on_white():
    inks = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    got = to_rgb(Image.fromarray(inks, "CMYK"))
    assert np.abs(got - expected).max() <= 1


def test_inverted_cmyk_of_adobe_looks_as_it_was_saved(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0] = 200  # cyan: little red
    path = saved(tmp_path / "a.jpg", Image.fromarray(inks, "CMYK"), quality=100)
    assert b"Adobe" in path.read_bytes()[:100]
    red, green, blue = read_image(path)[8, 8].astype(int)
    assert abs(red - 55) <= 4
    assert min(green, blue) >= 250


def test_an_image_is_an_array_of_its_own():
    image = Image.fromarray(COLORS)
    to_rgb(image)[:] = 0
    np.testing.assert_array_equal(np.asarray(image), COLORS)


# ---- files that cannot be read ----


def test_what_one_thread_is_allowed_others_are_not(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", COLORS)
    usual, opens, opening, seen = Image.MAX_IMAGE_PIXELS, Image.open, threading.Event(), []

    def slow(*arguments, **options):
        seen.append(Image.MAX_IMAGE_PIXELS)
        opening.set()
        time.sleep(0.05)
        return opens(*arguments, **options)

    def open_large():
        with opened(path, 2**40):
            pass

    monkeypatch.setattr(Image, "open", slow)
    thread = threading.Thread(target=open_large)
    thread.start()
    opening.wait(5)
    image_size(path)
    thread.join()
    assert seen == [2**40, usual]
    assert usual == Image.MAX_IMAGE_PIXELS


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: expected an image file, got nothing there"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected an image file, got no regular file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("read", [read_image, verify_image])
def test_a_truncated_file_is_named(tmp_path, suffix, read):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\{suffix}: ") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "replace it" in caught.value.hint


def test_text_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("Not found", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.png: expected an image, got 9 bytes that are none"):
        read_image(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(60_000, 60_000, 8, 0, []))
    with pytest.raises(DataError, match="3600 million pixels, too many") as caught:
        image_size(path)
    assert "MAX_IMAGE_PIXELS" in caught.value.hint


def test_animations_are_refused(tmp_path):
    path = tmp_path / "a.gif"
    Image.fromarray(VALUES).save(path, save_all=True, append_images=[Image.fromarray(VALUES + 1)])
    with pytest.raises(DataError, match=r"a\.gif: expected one image, got a file of several"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_no_damaged_file_escapes_as_another_error(tmp_path, kind):
    path = tmp_path / "a.png"
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, kind)
    refused = 0
    for _ in range(40):
        data = bytearray(buffer.getvalue())
        for place in RNG.integers(0, len(data), 3):
            data[place] = RNG.integers(0, 256)
        path.write_bytes(data[: RNG.integers(1, len(data) + 1)])
        for read in (read_image, read_mask_array, image_size, verify_image):
            try:
                read(path)
            except DataError as error:
                refused += "a.png" in str(error)
    assert refused > 20


@pytest.mark.parametrize("name", ["größe 1.png", "猫.png", "-o.png", "a.b.png", "x" * 251 + ".png"])
def test_names_of_all_kinds_are_read_and_written(tmp_path, name):
    write_mask(tmp_path / name, VALUES, {})
    np.testing.assert_array_equal(read_mask_array(tmp_path / name), VALUES)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_paths_are_shown_on_one_printable_line():
    assert show_path("a b/ü.png") == "a b/ü.png"
    assert show_path("a\nb\udcff.png") == "a\\nb\\udcff.png"


# ---- masks ----


def test_grey_and_palette_masks_give_their_numbers(tmp_path):
    palette = Image.fromarray(VALUES)
    palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    for mask, mode in ((Image.fromarray(VALUES), "L"), (palette, "P")):
        path = saved(tmp_path / "m.png", mask)
        np.testing.assert_array_equal(read_mask_array(path), VALUES)
        assert mask_mode(path) == mode


def test_transparent_palette_entries_are_indices_like_others(tmp_path):
    mask = Image.fromarray(VALUES)
    mask.putpalette(bytes(768))
    path = saved(tmp_path / "m.png", mask, transparency=bytes(20))
    np.testing.assert_array_equal(read_mask_array(path), VALUES)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_masks_of_few_bits_give_the_numbers_stored(tmp_path, depth):
    values = np.arange(8, dtype=np.uint8) % 2**depth
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    (tmp_path / "m.png").write_bytes(png(8, 1, depth, 0, [row]))
    np.testing.assert_array_equal(read_mask_array(tmp_path / "m.png"), values[np.newaxis])


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_wide_integer_masks_within_8_bits_are_read(tmp_path, kind):
    path = saved(tmp_path / "m.tif", VALUES.astype(kind))
    np.testing.assert_array_equal(read_mask_array(path), VALUES)
    assert read_mask_array(path).dtype == np.uint8


@pytest.mark.parametrize(("value", "kind"), [(256, np.uint16), (-1, np.int32), (65535, np.uint16)])
def test_values_beyond_8_bits_are_named_with_count_and_place(tmp_path, value, kind):
    values = VALUES.astype(kind)
    values[2, 3:5] = value
    path = saved(tmp_path / "m.tif", values)
    expected = rf"m\.tif: expected mask values 0\.\.255, got {value} \(2 pixels, first at row 2, column 3\)"
    with pytest.raises(DataError, match=expected):
        read_mask_array(path)


def test_colour_masks_are_read_as_colours(tmp_path):
    path = saved(tmp_path / "m.png", COLORS)
    np.testing.assert_array_equal(read_mask_array(path), COLORS)


def test_an_opaque_alpha_channel_of_a_mask_is_dropped(tmp_path):
    opaque = np.full((6, 9, 1), 255, np.uint8)
    path = saved(tmp_path / "m.png", np.concatenate([COLORS, opaque], 2))
    np.testing.assert_array_equal(read_mask_array(path), COLORS)
    path = saved(tmp_path / "n.png", Image.fromarray(np.concatenate([VALUES[..., None], opaque], 2), "LA"))
    np.testing.assert_array_equal(read_mask_array(path), VALUES)


def test_a_mask_with_transparent_pixels_is_refused(tmp_path):
    path = saved(tmp_path / "m.png", np.zeros((2, 2, 4), np.uint8))
    with pytest.raises(DataError, match=r"m\.png: expected an opaque mask, got transparent pixels") as caught:
        read_mask_array(path)
    assert "flatten" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("m.jpg", {}, "JPEG"),
        ("m.png", {"format": "JPEG"}, "JPEG"),
        ("m.webp", {"lossless": True}, "WEBP"),
        ("m.tif", {"compression": "jpeg"}, "TIFF with jpeg compression"),
    ],
)
@pytest.mark.parametrize("read", [read_mask_array, mask_mode])
def test_lossy_masks_are_refused_whatever_their_name(tmp_path, name, options, kind, read):
    path = saved(tmp_path / name, VALUES, **options)
    with pytest.raises(DataError, match=f"expected a mask in a lossless format, got {kind}") as caught:
        read(path)
    assert "as PNG" in caught.value.hint


@pytest.mark.parametrize("mode", ["F", "CMYK"])
def test_masks_of_other_modes_are_refused(tmp_path, mode):
    path = saved(tmp_path / "m.tif", Image.new(mode, (2, 2)))
    with pytest.raises(DataError, match=f"expected a grey, palette or RGB mask, got Pillow mode {mode}"):
        read_mask_array(path)


def test_deep_colour_masks_are_refused(tmp_path):
    (tmp_path / "m.png").write_bytes(png(1, 1, 16, 2, [bytes(6)]))
    with pytest.raises(DataError, match="expected a mask in 8-bit colours, got 16 bits"):
        read_mask_array(tmp_path / "m.png")


def test_inverted_masks_are_refused(tmp_path):
    path = saved(tmp_path / "m.tif", VALUES, tiffinfo={262: 0})
    with pytest.raises(DataError, match="stored inverted"):
        read_mask_array(path)


# ---- writing ----


def test_a_written_mask_holds_the_values_and_shows_the_colours(tmp_path):
    values = np.array([[0, 11, 255]], np.uint8)
    write_mask(tmp_path / "m.png", values, {0: (1, 2, 3), 11: (4, 5, 6)})
    np.testing.assert_array_equal(read_mask_array(tmp_path / "m.png"), values)
    assert mask_mode(tmp_path / "m.png") == "P"
    assert read_image(tmp_path / "m.png").tolist() == [[[1, 2, 3], [4, 5, 6], [224, 224, 192]]]


def test_255_of_a_binary_mask_has_its_own_colour(tmp_path):
    write_mask(tmp_path / "m.png", np.array([[255]], np.uint8), {255: (9, 8, 7)})
    assert read_image(tmp_path / "m.png").tolist() == [[[9, 8, 7]]]


def test_no_file_is_overwritten_unasked(tmp_path):
    path = tmp_path / "m.png"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.png exists already"):
        write_mask(path, VALUES, {})
    assert path.read_text(encoding="utf-8") == "mine"
    write_mask(path, VALUES, {}, overwrite=True)
    np.testing.assert_array_equal(read_mask_array(path), VALUES)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    write_mask(path, VALUES, {})

    def fail(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UsageError, match="cannot write the image: No space left on device"):
        write_mask(path, VALUES + 1, {}, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]
    np.testing.assert_array_equal(read_mask_array(path), VALUES)


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_mask(tmp_path / "m.png", VALUES, {})
    assert (tmp_path / "m.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_images_are_written_by_suffix(tmp_path):
    write_image(tmp_path / "a.png", COLORS)
    write_image(tmp_path / "a.JPG", COLORS)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLORS)
    assert (tmp_path / "a.JPG").read_bytes()[:2] == b"\xff\xd8"


def test_a_tiff_of_other_channels_is_not_called_damaged(tmp_path):
    tifffile.imwrite(
        tmp_path / "five.tif", np.zeros((5, 6, 5), np.uint16), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(DataError, match=r"five\.tif: expected an image, .* See --channels"):
        read_image(tmp_path / "five.tif")
