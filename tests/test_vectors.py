"""Masks as polygons and areas, drawn again and measured again."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.image_files import find_images
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.vectors import Place, Vectors, geojson

TABLE = ClassTable(
    (ClassEntry("background", 0, (0, 0, 0)), ClassEntry("größe", 7, (250, 0, 0)), ClassEntry("b", 9, (0, 250, 0))),
    (),
)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(1)
    model = FCN.build(TABLE, decoder="practical", stride=8, hidden=4)
    torch.nn.init.normal_(model.decoder.score.weight)
    return Predictor(model)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)


def redrawn(document, size, transform=None):
    """The mask values of a GeoJSON, drawn by GDAL."""
    shapes = [(feature["geometry"], feature["properties"]["value"]) for feature in document["features"]]
    options = {} if transform is None else {"transform": transform}
    return rasterize(shapes, size, fill=0, dtype=np.uint8, **options)


@pytest.mark.parametrize("seed", range(5))
def test_gdal_draws_the_mask_again(seed):
    mask = np.random.default_rng(seed).integers(0, 3, (15, 22)).astype(np.uint8)
    document = geojson(mask, TABLE)
    assert (redrawn(document, mask.shape) == np.array([0, 7, 9])[mask]).all()
    names = {feature["properties"]["class"] for feature in document["features"]}
    assert names == {"größe", "b"}
    pixels = sum(feature["properties"]["pixels"] for feature in document["features"])
    assert pixels == (mask > 0).sum()
    assert "crs" not in document


def test_outlines_turn_left_and_holes_right_on_the_map():
    mask = np.pad(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8), 1)
    place = Place((2.0, 0.0, 500.0, 0.0, -2.0, 900.0), "urn:ogc:def:crs:EPSG::32632")
    for where in (None, place):
        (feature,) = geojson(mask, TABLE, where)["features"]
        outline, hole = (np.array(ring) for ring in feature["geometry"]["coordinates"])
        for ring, sign in ((outline, 1), (hole, -1)):
            assert (ring[0] == ring[-1]).all()
            x, y = ring.T
            assert np.sign((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) == sign
    document = geojson(mask, TABLE, place)
    assert document["crs"]["properties"]["name"].endswith("EPSG::32632")
    assert feature["properties"]["area"] == 8 * 4
    assert (redrawn(document, mask.shape, from_origin(500, 900, 2, 2)) > 0).sum() == 8


def test_files_of_a_folder(predictor, pixels, tmp_path):
    for name, image in (("a", pixels), ("sub/b", pixels[:30])):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    out = tmp_path / "out"
    vectors = Vectors(out, TABLE, geojson=True, coco=True, areas=True)
    predict_files(predictor, find_images([tmp_path / "in"]), out, vectors=vectors)
    with (out / "areas.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("a", "sub/b"):
        with Image.open(out / f"{name}.png") as file:
            values = np.asarray(file)
        document = json.loads((out / f"{name}.geojson").read_text(encoding="utf-8"))
        assert (redrawn(document, values.shape) == values).all()
        found = {row["class"]: row for row in rows if row["image"] == name}
        for entry in TABLE.classes:
            count = int((values == entry.value).sum())
            assert int(found[entry.name]["pixels"]) == count
            assert float(found[entry.name]["share"]) == pytest.approx(count / values.size, abs=1e-6)
            assert found[entry.name]["area"] == ""
    coco = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png"]
    assert len({one["id"] for one in coco["annotations"]}) == len(coco["annotations"]) > 2
    with pytest.raises(UsageError, match=r"areas\.csv is there already"):
        vectors.refuse_existing(["a"])
    with pytest.raises(UsageError, match=r"a\.geojson is there already"):
        Vectors(out, TABLE, geojson=True).refuse_existing(["c", "a"])


def test_the_coco_file_is_the_masks(predictor, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_files(
        predictor,
        find_images([tmp_path / "a.png"]),
        tmp_path / "out",
        vectors=Vectors(tmp_path / "out", TABLE, coco=True),
    )
    (tmp_path / "out" / "predictions.json").rename(tmp_path / "predictions.json")
    dataset = Dataset.open(tmp_path / "predictions.json")
    expected = predictor.predict(pixels)
    assert dataset.class_table.names == TABLE.names
    assert (dataset.read_target(dataset[0]) == expected).all()


def test_a_geotiff_has_outlines_on_its_map(predictor, pixels, tmp_path):
    transform = from_origin(300000, 5000000, 0.5, 0.5)
    with rasterio.open(
        tmp_path / "a.tif", "w", "GTiff", 84, 60, 3, "EPSG:32632", transform, "uint8", photometric="RGB"
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    predict_files(
        predictor,
        find_images([tmp_path / "a.tif"]),
        tmp_path / "out",
        vectors=Vectors(tmp_path / "out", TABLE, geojson=True, areas=True),
    )
    document = json.loads((tmp_path / "out/a.geojson").read_text(encoding="utf-8"))
    with rasterio.open(tmp_path / "out/a.tif") as file:
        values = file.read(1)
    assert (redrawn(document, values.shape, transform) == values).all()
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    with (tmp_path / "out/areas.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert float(row["area"]) == pytest.approx(int(row["pixels"]) * 0.25)


def test_the_same_of_an_image_that_is_read_by_parts(predictor, pixels, tmp_path, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name, large in (("whole", 16_000_000), ("parts", 100)):
        monkeypatch.setattr("fullyconv.predict_files.LARGE", large)
        vectors = Vectors(tmp_path / name, TABLE, geojson=True, coco=True, areas=True)
        predict_files(predictor, find_images([tmp_path / "a.png"]), tmp_path / name, vectors=vectors)
    for name in ("a.geojson", "predictions.json", "areas.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
