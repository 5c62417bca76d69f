"""Images of other than three channels and 8 bits: scaled as stated, learned from, carried by cache and model."""

import numpy as np
import pytest
import tifffile
import torch
from command_line import run
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.encoder import Encoder
from fullyconv.encoders import build_network
from fullyconv.encoders.channels import with_channels
from fullyconv.errors import DataError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.image_form import RGB, ImageForm, shown
from fullyconv.model import FCN
from fullyconv.model_file import load_model, save_model
from fullyconv.predict import Predictor
from fullyconv.tiles import cut
from fullyconv.train import train
from fullyconv.transforms import View

TABLE = ClassTable.from_values((0, 1))


def save_tiff(path, values):
    options = {"planarconfig": "contig"} if values.ndim == 3 else {}
    tifffile.imwrite(path, values, photometric="minisblack", **options)


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        ([0, 255], ImageForm(1), [0, 255]),
        (np.uint16([0, 257, 65535]), ImageForm(1), [0, 1, 255]),
        (np.uint16([0, 100, 4095, 5000]), ImageForm(1, (0, 4095)), [0, 100 * 255 / 4095, 255, 255]),
        (np.int16([-1000, 0, 3000]), ImageForm(1, (-1000, 3000)), [0, 63.75, 255]),
        (np.float32([-1, 0.5, 2]), ImageForm(1, (0, 1)), [0, 127.5, 255]),
        (np.float64([-1e308, 0.5, 1e308]), ImageForm(1, (0, 1)), [0, 127.5, 255]),
    ],
)
def test_values_are_scaled_as_stated(values, form, expected):
    values = np.asarray(values, np.uint8) if isinstance(values, list) else values
    found = form.scaled(values.reshape(1, -1, 1))
    assert found.dtype == np.float32
    assert np.allclose(found.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "form", "message"),
    [
        (np.zeros((2, 2, 3), np.uint8), ImageForm(4), "expected 4 channels, got 3"),
        (np.zeros((2, 2), np.uint8), ImageForm(1), r"expected 1 channels, got an array \[2, 2\]"),
        (
            np.zeros((2, 2, 1), np.float32),
            ImageForm(1),
            "expected values of 8 or 16 bits, got float32.*--value-range",
        ),
        (np.full((2, 2, 1), np.nan), ImageForm(1, (0, 1)), "expected numbers, got 4 values that are none"),
        (
            np.zeros((2, 2, 1), np.complex64),
            ImageForm(1, (0, 1)),
            "8 or 16 bits, got complex64",
        ),
    ],
)
def test_images_of_another_form_are_refused(values, form, message):
    with pytest.raises(DataError, match=message):
        form.scaled(values, "a.tif")


@pytest.mark.parametrize("arguments", [(0,), (65,), (1, (1, 1)), (1, (2, 1)), (1, (0, float("inf")))])
def test_a_form_that_cannot_be_is_refused(arguments):
    with pytest.raises(UsageError):
        ImageForm(*arguments)


def test_forms_travel_as_json():
    for form in (RGB, ImageForm(5), ImageForm(1, (0.0, 4095.0))):
        assert ImageForm.from_json(form.to_json()) == form
    assert ImageForm.from_json(None) == RGB


def test_what_is_shown_is_rgb():
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 6)).astype(np.float32)
    assert np.array_equal(shown(image), np.rint(image[..., :3]).astype(np.uint8))
    assert np.array_equal(shown(image[..., :2]), np.rint(image[..., [0, 0, 0]]).astype(np.uint8))
    rgb = np.zeros((2, 2, 3), np.uint8)
    assert shown(rgb) is rgb


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "resnet18"])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_equal_channels_give_what_grey_gives_in_rgb(name, channels):
    weights = "pretrained" if name == "efficientnet_lite0" else "none"
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    adapted = build_network(name, weights, channels)
    usual = build_network(name, weights)
    stride = usual.taps[-1].stride
    # Of the convention: the mean of the means and deviations is fed to all colours alike.
    feed = (grey - adapted.input_convention.mean[-1]) / adapted.input_convention.std[-1]
    with torch.no_grad():
        (found,) = adapted.eval()(feed.expand(1, channels, 32, 32), [stride])
        (expected,) = usual.eval()(feed.expand(1, 3, 32, 32), [stride])
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_three_of_many_channels_keep_the_filters_of_red_green_and_blue():
    usual, adapted = build_network("efficientnet_lite0"), build_network("efficientnet_lite0", channels=5)
    weight, filters = adapted.stem.conv.weight, usual.stem.conv.weight
    assert torch.allclose(weight[:, :3], filters * 3 / 5)
    assert torch.allclose(weight[:, 3:], filters.mean(1, keepdim=True).expand(-1, 2, -1, -1) * 3 / 5)
    with pytest.raises(UsageError, match="reads images of 5 channels, got 4"):
        with_channels(adapted, 4)


def test_the_form_is_in_the_digest_and_the_usual_one_is_not_mentioned():
    def digest(form):
        return Encoder(build_network("efficientnet_lite0", channels=form.channels), [8], image_form=form).digest()

    forms = [RGB, ImageForm(3, (0, 255)), ImageForm(3, (0, 254)), ImageForm(4), ImageForm(4, (0, 1))]
    assert len({digest(form) for form in forms}) == len(forms)
    assert "image_form" not in Encoder(build_network("efficientnet_lite0"), [8]).config()


@pytest.mark.parametrize(
    ("precision", "channels"),
    [
        ("float32", 5),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("float32", 1), ("float32", 2), *(("bfloat16", channels) for channels in (1, 2, 5))]
        ),
    ],
)
def test_parts_have_the_bits_of_the_whole(channels, precision):
    form = ImageForm(channels, (0, 1))
    model = FCN.build(TABLE, scales=(1.0, 1.5), stride=8, image_form=form, encoder_weights="none")
    image = form.scaled(np.random.default_rng(0).random((1300, 101, channels)))
    predictor = Predictor(model, precision=precision)
    whole = predictor.logits(image)
    by_rows = list(predictor.mask_parts(image.shape[:2], lambda box: image[box.slices], rows=64))
    assert len(by_rows) > 2
    assert np.array_equal(np.concatenate([part for _, part in by_rows]), predictor.predict(image))
    tile = cut(image.shape[:2], (predictor.tile_grid, 200), predictor.halo, predictor.tile_grid)[0]
    assert tile.window.bottom < 1300
    rows = tile.area.bottom // predictor.output_stride
    assert torch.equal(predictor.logits(image[tile.window.slices])[..., :rows, :], whole[..., :rows, :])


def save_set(folder, channels, count=8):
    """Classes that only the last channel tells apart, whose steps 8 bits would round away."""
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((96, 96), np.uint8)
        top, left = draw.integers(0, 48, 2)
        mask[top : top + 40, left : left + 40] = 1
        image = draw.integers(1000, 1040, (96, 96, channels), np.uint16)
        image[..., -1] = 1000 + 90 * mask.astype(np.uint16) + draw.integers(0, 20, mask.shape)
        save_tiff(folder / "images" / f"{number}.tif", image if channels > 1 else image[..., 0])
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 4])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    data = save_set(folder / "data", request.param)
    form = ImageForm(request.param, (900, 1200))
    settings = recipe("fast", channels=form.channels, value_range=form.value_range, steps=100, threads=1)
    dataset = Dataset.open(data, image_form=form)
    result = train(dataset, folder / "run", settings, cache=FeatureCache(folder / "cache"))
    return folder, form, result


def test_what_only_one_channel_shows_is_learned_and_what_is_read_is_said(trained):
    folder, form, _ = trained
    assert (
        f"images are read as {form.channels} channels as stored, 900..1200 as 0..255."
        in Dataset.open(folder / "data", image_form=form).notes
    )
    assert trained[2].report.mean_iou > 0.8


def test_the_model_file_carries_the_form(trained, tmp_path):
    _, form, result = trained
    model = load_model(result.model)
    assert model.encoder.image_form == form
    save_model(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == result.model.read_bytes()


def test_the_commands_read_what_the_model_reads(trained, tmp_path, capsys, monkeypatch):
    folder, form, result = trained
    assert (
        run(monkeypatch, *["predict", str(result.model), str(folder / "data/images"), "-o", str(tmp_path / "out")])
        == 0
    )
    mask = np.asarray(Image.open(tmp_path / "out" / "0.png"))
    truth = np.asarray(Image.open(folder / "data/masks/0.png"))
    assert (mask == truth).mean() > 0.95
    assert run(monkeypatch, *["evaluate", str(result.model), str(folder / "data"), "--split", "all"]) == 0
    options = ["--split", "all", "--engine", "auto"]
    assert run(monkeypatch, "evaluate", result.model, folder / "data", *options) == 0
    page = tmp_path / "page.html"
    assert (
        run(monkeypatch, *["report", str(result.model), str(folder / "data"), "--split", "all", "-o", str(page)])
        == 0
    )
    options = ["--channels", str(form.channels), "--value-range", "900,1200", "--html", str(tmp_path / "c.html")]
    assert run(monkeypatch, *["check", str(folder / "data"), *options]) == 0
    options = options[:4]
    assert run(monkeypatch, "convert", folder / "data", tmp_path / "voc", "--format", "voc", *options) == 0
    assert (tmp_path / "voc/JPEGImages/0.tif").read_bytes() == (folder / "data/images/0.tif").read_bytes()
    Image.new("RGB", (30, 30)).save(tmp_path / "rgb.png")
    capsys.readouterr()
    assert (
        run(monkeypatch, *["predict", str(result.model), str(tmp_path / "rgb.png"), "-o", str(tmp_path / "o")])
        == 2
    )
    assert f"rgb.png: expected {form.channels} channels, got 3" in capsys.readouterr().err


def test_another_range_is_another_entry_of_the_cache(trained):
    folder, form, _ = trained
    cache = FeatureCache(folder / "cache2")

    def maps(span):
        other = ImageForm(form.channels, span)
        network = build_network("efficientnet_lite0", channels=form.channels)
        reader = FeatureReader(
            Encoder(network, [8], image_form=other), Dataset.open(folder / "data", image_form=other), cache
        )
        return reader.maps(reader.dataset[0])[0]

    first = maps((900, 1200))
    assert torch.equal(first, maps((900, 1200)))
    assert not torch.equal(first, maps((0, 1200)))


def test_views_resize_and_mirror_every_channel():
    image = np.random.default_rng(0).uniform(0, 255, (8, 10, 5)).astype(np.float32)
    assert np.array_equal(View(mirror=True).apply(image), image[:, ::-1])
    half = View(scale=0.5).apply(image)
    assert half.shape == (4, 5, 5)
    one = np.asarray(Image.fromarray(image[..., 3]).resize((5, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(half[..., 3], one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 4, "colour_views": 1}, "colours are changed of RGB images only"),
        ({"channels": 4, "rgb_0_to_1": True}, "rgb_0_to_1 is for RGB, got channels 4"),
        ({"value_range": (3, 2)}, r"setting value_range: input should be LOW,HIGH"),
        ({"value_range": (3,)}, r"setting value_range: input should be LOW,HIGH"),
        ({"channels": 65}, "less than or equal to 64"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        recipe(**changes)


def test_an_array_has_to_be_scaled_before_it_is_predicted():
    form = ImageForm(2, (0, 1000))
    model = FCN.build(TABLE, image_form=form, encoder_weights="none")
    with pytest.raises(
        UsageError, match=r"has to be H x W x 2 float32 in 0\.\.255, got 8 x 8 x 2 uint16 .*scaled"
    ):
        Predictor(model).predict(np.zeros((8, 8, 2), np.uint16))
    assert Predictor(model).predict(form.scaled(np.zeros((8, 8, 2), np.uint16))).shape == (8, 8)
