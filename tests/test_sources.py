"""Images read by parts are those read whole, masks written by parts are those written whole."""

import itertools

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from fullyconv import sources
from fullyconv.errors import DataError
from fullyconv.images import read_image
from fullyconv.sources import open_image, read_header
from fullyconv.sources.blocks import levels_of, row_blocks
from fullyconv.sources.reduced import Reduced
from fullyconv.tiles import Box

PIXELS = np.random.default_rng(0).integers(0, 256, (75, 110, 3), dtype=np.uint8)
BOXES = [Box(0, 0, 75, 110), Box(0, 0, 20, 110), Box(20, 0, 41, 110), Box(41, 7, 75, 33), Box(74, 109, 75, 110)]
PALETTE = {0: (1, 2, 3), 7: (200, 100, 0)}


def choose(monkeypatch, library):
    """Let a TIFF be read by one of the libraries, or by Pillow."""
    monkeypatch.setattr(sources.GeoTiff, "is_installed", lambda: library == "rasterio")
    monkeypatch.setattr(sources.GeoTiff, "is_placed", lambda path: True)
    monkeypatch.setattr(sources.TiledTiff, "is_installed", lambda: library == "tifffile")


def assert_parts_are_the_whole(path, tolerance=0):
    whole = read_image(path)
    with open_image(path) as source:
        assert source.size == whole.shape[:2] == read_header(path).size
        for box in BOXES:
            turned = box if whole.shape[0] == 75 else Box(box.left, box.top, box.right, box.bottom)
            part = source.read(turned)
            assert part.dtype == np.uint8
            assert np.abs(part.astype(int) - whole[turned.slices]).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_a_decoded_image_gives_its_parts_in_every_mode(tmp_path, mode):
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray((PIXELS[..., 0].astype(np.uint16) << 8) + PIXELS[..., 1])
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    assert_parts_are_the_whole(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied_to_the_place_of_a_part(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}", exif=exif)
    assert_parts_are_the_whole(tmp_path / f"a.{suffix}")


FORMS = {
    "strips": {"rowsperstrip": 16},
    "one strip": {},
    "tiles": {"tile": (32, 48)},
    "deflated tiles, BigTIFF": {"tile": (32, 32), "compression": "zlib", "bigtiff": True},
    "LZW": {"tile": (32, 32), "compression": "lzw", "predictor": True},
    "JPEG": {"tile": (32, 32), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
    "big-endian": {"tile": (32, 32), "byteorder": ">"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", ["tifffile", "rasterio", "none"])
def test_a_tiff_gives_its_parts_whoever_reads_it(tmp_path, monkeypatch, form, library):
    choose(monkeypatch, library)
    options = {"photometric": "rgb", **FORMS[form]}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    assert read_header(tmp_path / "a.tif").mask_suffix == (".png" if library == "none" else ".tif")
    # GDAL brings a JPEG library of its own, which rounds in its own way.
    assert_parts_are_the_whole(tmp_path / "a.tif", tolerance=4 * (form == "JPEG" and library == "rasterio"))


@pytest.mark.parametrize("kind", ["grey", "grey, 16 bits", "colour, 16 bits", "with alpha"])
@pytest.mark.parametrize("library", ["tifffile", "rasterio"])
def test_a_tiff_of_other_pixels_gives_what_the_image_gives(tmp_path, monkeypatch, kind, library):
    choose(monkeypatch, library)
    deep = (PIXELS.astype(np.uint16) << 8) + PIXELS[::-1]
    values = {
        "grey": PIXELS[..., 0],
        "grey, 16 bits": deep[..., 0],
        "colour, 16 bits": deep,
        "with alpha": np.concatenate([PIXELS, PIXELS[..., :1]], axis=2),
    }[kind]
    options = {"extrasamples": ["unassalpha"]} if kind == "with alpha" else {}
    photometric = "minisblack" if kind.startswith("grey") else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, tile=(32, 32), **options)
    assert_parts_are_the_whole(tmp_path / "a.tif")


def test_of_a_pyramid_the_full_size_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PIXELS, tile=(32, 32), subifds=1, photometric="rgb")
        file.write(PIXELS[::2, ::2], tile=(32, 32), subfiletype=1, photometric="rgb")
    with open_image(tmp_path / "a.tif") as source:
        assert np.array_equal(source.read(Box(3, 5, 60, 99)), PIXELS[3:60, 5:99])


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_that_is_stored_turned_is_read_upright(tmp_path, orientation):
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(32, 32), photometric="rgb", extratags=tags)
    assert_parts_are_the_whole(tmp_path / "a.tif")


def test_a_tile_is_decoded_once_for_bands_from_top_to_bottom(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(32, 32), photometric="rgb")
    with open_image(tmp_path / "a.tif") as source:
        decoded, plain = [], source._row_of_tiles
        monkeypatch.setattr(source, "_row_of_tiles", lambda number: decoded.append(number) or plain(number))
        for top in range(0, 75, 5):
            source.read(Box(top, 0, top + 5, 110))
    assert decoded == [0, 1, 2]


@pytest.mark.parametrize("library", ["tifffile", "rasterio", "none"])
def test_a_damaged_tiff_is_refused_with_its_name(tmp_path, monkeypatch, library):
    choose(monkeypatch, library)
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(32, 32), compression="zlib", photometric="rgb")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[-3000:] = bytes(3000)
    (tmp_path / "a.tif").write_bytes(data)
    with (
        pytest.raises(DataError, match=r"a\.tif: cannot read the image"),
        open_image(tmp_path / "a.tif") as source,
    ):
        source.read(Box(0, 0, 75, 110))


def test_what_is_no_image_of_its_own_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "two.tif", np.stack([PIXELS, PIXELS]), photometric="rgb")
    with pytest.raises(DataError, match=r"two\.tif: expected one image"), open_image(tmp_path / "two.tif"):
        pass
    tifffile.imwrite(
        tmp_path / "planes.tif", PIXELS.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(DataError, match="side by side"), open_image(tmp_path / "planes.tif"):
        pass
    tifffile.imwrite(tmp_path / "float.tif", PIXELS[..., 0].astype(np.float32))
    with pytest.raises(DataError, match="8 or 16 bits, got 1 x float32"), open_image(tmp_path / "float.tif"):
        pass


def test_an_image_that_has_to_be_decoded_and_is_too_large_is_refused(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    assert read_header(tmp_path / "b.png").mask_suffix == ".png"
    monkeypatch.setattr("fullyconv.sources.decoded.available_bytes", lambda: 10_000)
    with pytest.raises(DataError, match=r"expected 33 kB of memory.*there are 10 kB.*tiled TIFF"):
        open_and_close(tmp_path / "b.png")
    monkeypatch.setattr(sources, "LARGEST_DECODED", 8_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(DataError, match=r"b\.png: the image has .* million pixels.*save it as tiled TIFF"):
        open_and_close(tmp_path / "b.png")


def open_and_close(path):
    with open_image(path):
        pass


def parts_of(mask, rows=31, columns=200):
    for top, left in itertools.product(range(0, mask.shape[0], rows), range(0, mask.shape[1], columns)):
        box = Box(top, left, min(top + rows, mask.shape[0]), min(left + columns, mask.shape[1]))
        yield box, mask[box.slices]


MASK = np.random.default_rng(1).choice([0, 7], (75, 110)).astype(np.uint8)


@pytest.mark.parametrize("columns", [200, 40])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_written_by_parts_is_the_mask(tmp_path, suffix, columns):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")
    with open_image(tmp_path / f"a{suffix}") as source:
        assert source.mask_suffix == suffix == read_header(tmp_path / f"a{suffix}").mask_suffix
        source.write_mask(tmp_path / f"mask{suffix}", parts_of(MASK, columns=columns), PALETTE)
    with Image.open(tmp_path / f"mask{suffix}") as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), MASK)
        assert written.getpalette()[21:24] == [200, 100, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"mask{suffix}"]


@pytest.mark.parametrize("library", ["tifffile", "rasterio"])
def test_a_large_mask_is_a_pyramid_of_tiles(tmp_path, monkeypatch, library):
    choose(monkeypatch, library)
    image = np.zeros((1300, 2600, 3), np.uint8)
    mask = np.random.default_rng(2).integers(0, 5, image.shape[:2], dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(256, 256), photometric="rgb")
    with open_image(tmp_path / "a.tif") as source:
        source.write_mask(tmp_path / "mask.tif", parts_of(mask, 100, 1024), PALETTE)
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(1300, 2600), (650, 1300), (325, 650)]
        assert all(level.keyframe.is_tiled for level in levels)
        assert np.array_equal(levels[0].asarray(), mask)
        assert np.array_equal(levels[1].asarray(), mask[::2, ::2]) or library == "rasterio"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_that_is_interrupted_leaves_nothing(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")

    def parts():
        yield Box(0, 0, 40, 110), MASK[:40]
        raise KeyboardInterrupt

    with open_image(tmp_path / f"a{suffix}") as source, pytest.raises(KeyboardInterrupt):
        source.write_mask(tmp_path / f"mask{suffix}", parts(), PALETTE)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def write_geotiff(path, **options):
    form = {"crs": "EPSG:32633", "transform": from_origin(500_000, 4_600_000, 0.5, 0.5), **options}
    with rasterio.open(
        path, "w", driver="GTiff", width=110, height=75, count=3, dtype="uint8", tiled=True, blockxsize=32,
        blockysize=32, **form,
    ) as file:  # fmt: skip
        file.write(PIXELS.transpose(2, 0, 1))


def test_the_mask_of_a_geotiff_lies_where_the_image_lies(tmp_path):
    write_geotiff(tmp_path / "a.tif", nodata=0)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write(np.zeros((3, 10, 10), np.uint8), window=((5, 15), (20, 30)))
    header = read_header(tmp_path / "a.tif")
    assert (header.placed, header.place_kept, header.mask_suffix) == (True, True, ".tif")
    assert_parts_are_the_whole(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as source:
        source.write_mask(tmp_path / "mask.tif", parts_of(MASK), PALETTE)
    with rasterio.open(tmp_path / "mask.tif") as mask, rasterio.open(tmp_path / "a.tif") as image:
        assert mask.crs == image.crs
        assert mask.transform == image.transform
        assert mask.nodata == 255
        assert mask.colormap(1)[7] == (200, 100, 0, 255)
        values = mask.read(1)
    assert (values[5:15, 20:30] == 255).all()
    values[5:15, 20:30] = MASK[5:15, 20:30]
    assert (values != MASK).sum() == ((PIXELS == 0).all(axis=2)).sum()


def test_control_points_are_kept(tmp_path):
    points = [
        GroundControlPoint(0, 0, 10, 20),
        GroundControlPoint(0, 110, 12, 20),
        GroundControlPoint(75, 0, 10, 18),
    ]
    write_geotiff(tmp_path / "a.tif", gcps=points, transform=None)
    with open_image(tmp_path / "a.tif") as source:
        source.write_mask(tmp_path / "mask.tif", parts_of(MASK), PALETTE)
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert [(point.x, point.y) for point in mask.gcps[0]] == [(10, 20), (12, 20), (10, 18)]


def test_red_green_and_blue_are_found_among_the_bands(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=110, height=75, count=4, dtype="uint8", crs="EPSG:4326",
        transform=from_origin(5, 5, 2, 2), photometric="MINISBLACK",
    ) as file:  # fmt: skip
        file.write(np.stack([PIXELS[..., 2], PIXELS[..., 0], PIXELS[..., 0] * 0, PIXELS[..., 1]]))
        interp = rasterio.enums.ColorInterp
        file.colorinterp = [interp.blue, interp.red, interp.undefined, interp.green]
    assert read_header(tmp_path / "a.tif").size == (75, 110)
    with open_image(tmp_path / "a.tif") as source:
        assert np.array_equal(source.read(Box(0, 0, 75, 110)), PIXELS)


def test_without_rasterio_a_geotiff_is_read_and_its_place_is_said_to_be_lost(tmp_path, monkeypatch):
    write_geotiff(tmp_path / "a.tif")
    choose(monkeypatch, "tifffile")
    header = read_header(tmp_path / "a.tif")
    assert (header.placed, header.place_kept) == (True, False)
    assert_parts_are_the_whole(tmp_path / "a.tif")


@pytest.mark.parametrize("columns", [7, 23, 100])
@pytest.mark.parametrize("rows", [1, 60, 512, 700])
def test_blocks_are_whole_rows_in_order(rows, columns):
    mask = np.random.default_rng(3).integers(0, 9, (1100, 23), dtype=np.uint8)
    blocks = list(row_blocks(parts_of(mask, rows, columns), mask.shape))
    assert [len(block) for block in blocks] == [512, 512, 76]
    assert np.array_equal(np.concatenate(blocks), mask)


@pytest.mark.parametrize(
    ("size", "levels"),
    [((75, 110), []), ((1024, 1024), []), ((1025, 3), [2]), ((20_000, 5_000), [2, 4, 8, 16, 32])],
)
def test_levels_halve_until_one_is_small(size, levels):
    assert levels_of(size) == levels


def test_a_reduced_picture_is_made_of_the_nearest_pixels(monkeypatch):
    monkeypatch.setattr("fullyconv.sources.reduced.LONGEST", 22)
    small = Reduced((75, 110))
    for box, values in parts_of(MASK, 16, 50):
        small.add_mask(box, values)
        small.add_image(box, PIXELS[box.slices])
    assert small.mask.shape == (15, 22)
    assert np.array_equal(small.mask, MASK[2::5, 2::5])
    assert np.array_equal(small.image, PIXELS[2::5, 2::5])
    monkeypatch.undo()
    assert Reduced((75, 110)).mask.shape == (75, 110)
