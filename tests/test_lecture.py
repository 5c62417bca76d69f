"""The lecture's figures and its training, against the same written out by hand."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.device import seed_everything
from fullyconv.encoder import RGB_0_TO_1, Encoder
from fullyconv.encoders import bare_network, build_network
from fullyconv.errors import ModelFileError, WeightsError
from fullyconv.feature_cache import FeatureCache
from fullyconv.image_files import find_images
from fullyconv.lecture import lecture_figures, painted
from fullyconv.model import FCN, build_model
from fullyconv.model_file import load_model, read_description, save_model
from fullyconv.pictures import class_maps
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.train import train
from fullyconv.upsample import predict_mask

TABLE = ClassTable((ClassEntry("background", 0, (0, 0, 0)), ClassEntry("road", 1, (0, 255, 0))))
SIZE = (32, 64)

# What makes the recipe small; everything else is the recipe's own.
SMALL = {"encoder_weights": "none", "width": 6, "batch": 3, "threads": 1}


@pytest.fixture
def arrays(tmp_path):
    """The lecture's data: floats 0..1, one-hot masks, images for testing without masks."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)
    masks = (images[..., 1] > 128).astype(int)
    folder = tmp_path / "data_files"
    folder.mkdir()
    np.save(folder / "images_training.npy", images / 255)
    np.save(folder / "seg_training.npy", np.eye(2)[masks])
    np.save(folder / "images_testing.npy", images[:2] / 255)
    return folder


# ---- training ----


def by_hand(images, masks, seed, epoch_steps, epochs, batch, decoder):
    """The losses of the lecture's training in plain torch; `decoder` gives the start and names the layers."""
    vgg = build_network("vgg16", "none").features
    start = {name: value.clone().requires_grad_() for name, value in decoder.state_dict().items()}
    optimizer = torch.optim.Adam(start.values(), lr=1e-3, foreach=False, fused=False)

    def features(image):
        # Half precision is how features are kept.
        maps, taps = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, []
        maps = maps.contiguous(memory_format=torch.channels_last)
        for layer in vgg.to(memory_format=torch.channels_last):
            if isinstance(layer, torch.nn.Conv2d):
                # On maps as small as these, torch itself would use another library, which adds in another order.
                maps = torch.mkldnn_convolution(maps, layer.weight, layer.bias, [1, 1], [1, 1], [1, 1], 1)
                continue
            maps = layer(maps)
            if isinstance(layer, torch.nn.MaxPool2d):
                taps.append(maps.half().float().contiguous())
        return taps[2:]

    def layer(function, name, maps, **options):
        return function(maps, start[f"{name}.weight"], start[f"{name}.bias"], **options)

    losses = []
    for epoch in range(epochs):
        draw = torch.Generator().manual_seed(random.Random(f"{seed} {epoch}").getrandbits(62))
        chosen = torch.randint(len(images), (epoch_steps * batch,), generator=draw).reshape(epoch_steps, batch)
        for indices in chosen.tolist():
            with torch.no_grad():
                drawn = [features(images[index]) for index in indices]
            maxp3, maxp4, maxp5 = (torch.cat(maps) for maps in zip(*drawn, strict=True))
            conv6 = layer(functional.conv2d, "conv6", maxp5, padding=3).relu()
            fcn4 = layer(functional.conv2d, "fcn4", conv6).relu()
            fcn3 = layer(functional.conv2d, "fcn3", fcn4)
            fcn2 = layer(functional.conv_transpose2d, "fcn2", fcn3, stride=2, padding=1)
            fcn1 = layer(functional.conv_transpose2d, "fcn1", fcn2 + maxp4, stride=2, padding=1)
            logits = layer(functional.conv_transpose2d, "output", fcn1 + maxp3, stride=8, padding=4)
            targets = torch.stack([torch.from_numpy(masks[index]).long() for index in indices])
            each = functional.cross_entropy(logits, targets, reduction="none")
            assert torch.allclose(each.mean(), functional.cross_entropy(logits, targets), atol=1e-6)
            loss = (each.flatten(1).sum(dim=1) / each[0].numel()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_the_recipe_trains_as_the_lecture_written_out_by_hand(arrays, tmp_path):
    dataset = Dataset.open(arrays)
    config = recipe("lecture-exact", **SMALL, epochs=5, epoch_steps=1)
    result = train(dataset, tmp_path / "run", config, cache=FeatureCache(tmp_path / "cache"))
    training = dataset.with_seeded_split(config.val_fraction, config.seed).split("train")
    images = [dataset.read_image(sample) for sample in training]
    masks = [dataset.read_target(sample) for sample in training]
    torch.set_num_threads(1)
    seed_everything(config.seed)
    decoder = build_model(config, dataset.class_table).decoder
    expected = by_hand(images, masks, config.seed, 1, 5, 3, decoder)
    assert [row["loss"] for row in result.history] == expected
    assert [row["lr"] for row in result.history] == [1e-3] * 5


def test_the_recipe_is_300_batches_of_20_with_a_line_for_each_30():
    config = recipe("lecture-exact")
    assert (config.epochs * config.epoch_steps, config.epoch_steps, config.batch) == (300, 30, 20)
    assert (config.lr, config.schedule, config.weight_decay, config.balance) == (1e-3, "constant", 0, 0)
    assert (config.encoder, config.decoder, config.width, config.stride) == ("vgg16", "lecture", 4096, 8)


def test_it_works_on_the_encoder_whose_weights_are_here(arrays, tmp_path):
    config = recipe("lecture-exact", encoder="efficientnet_lite0", width=6, batch=2, epochs=2, epoch_steps=2)
    result = train(Dataset.open(arrays), tmp_path / "run", config, cache=FeatureCache(tmp_path / "cache"))
    assert len((result.run / "metrics.csv").read_text().splitlines()) == 1 + 2
    assert read_description(result.model)["encoder"]["input_convention"]["std"] == [255.0, 255.0, 255.0]


def test_vgg16_without_weights_is_refused_unless_none_is_said(arrays, tmp_path):
    with pytest.raises(WeightsError, match="vgg16"):
        train(Dataset.open(arrays), tmp_path / "run", recipe("lecture-exact"))


# ---- RGB 0..1 ----


def test_the_network_is_fed_rgb_divided_by_255_and_nothing_else():
    fed = []

    class Spy(type(bare_network("vgg16"))):
        def forward(self, images, strides):
            fed.append(images)
            return super().forward(images, strides)

    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    Encoder(Spy(), (8,), input_convention=RGB_0_TO_1)(image)
    assert torch.equal(fed[0], image.float() / 255)


def test_a_model_file_says_what_its_encoder_is_fed(tmp_path):
    options = {"encoder_weights": "none", "decoder": "lecture", "width": 2}
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    logits = {}
    for rgb_0_to_1 in (True, False):
        torch.manual_seed(0)
        model = FCN.build(TABLE, **options, rgb_0_to_1=rgb_0_to_1).eval()
        save_model(model, tmp_path / f"{rgb_0_to_1}.safetensors")
        loaded = load_model(tmp_path / f"{rgb_0_to_1}.safetensors")
        with torch.no_grad():
            logits[rgb_0_to_1] = loaded(image)
            assert torch.equal(loaded(image), model(image))
        assert (loaded.encoder.input_convention == RGB_0_TO_1) is rgb_0_to_1
    assert not torch.allclose(logits[True], logits[False])


def test_a_convention_of_nobody_is_refused(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = FCN.build(TABLE, encoder_weights="none", decoder="lecture", width=2)
    description = model.description()
    description["encoder"]["input_convention"]["std"] = (255.0, 255.0, 254.0)
    monkeypatch.setattr(model, "description", lambda: description)
    save_model(model, tmp_path / "odd.safetensors")
    with pytest.raises(ModelFileError, match="expected input_convention"):
        load_model(tmp_path / "odd.safetensors")


# ---- prediction ----


def test_of_two_classes_the_prediction_is_where_the_probability_is_above_one_half():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 40, 40)
    logits[:, 1, :5] = logits[:, 0, :5]
    mask = predict_mask(logits, 1, (40, 40))[0]
    assert torch.equal(mask.bool(), logits[0, 1] > logits[0, 0])
    assert torch.equal(mask.bool(), logits.double().softmax(dim=1)[0, 1] > 0.5)
    assert not mask[:5].any()


# ---- figures ----


def test_the_mask_alone_is_green_with_an_opacity_of_127():
    mask = np.array([[0, 1, 255]], np.uint8)
    assert painted(mask, TABLE).tolist() == [[[0, 0, 0, 0], [0, 255, 0, 127], [0, 0, 0, 0]]]


def test_the_overlay_is_the_mask_pasted_on_the_image():
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    mask = draw.integers(0, 2, (9, 11), dtype=np.uint8)
    maps, alone, overlay = lecture_figures(image, mask, TABLE).values()
    blended = image * (1 - 127 / 255) + np.array([0, 255, 0]) * (127 / 255)
    assert np.abs(overlay - np.where(mask[..., None] == 1, blended, image)).max() <= 1
    assert np.array_equal(overlay[mask == 0], image[mask == 0])
    assert np.array_equal(maps, class_maps(image, mask, TABLE, columns=1))
    assert maps.shape[0] > 3 * 9 * 29
    assert np.array_equal(alone, painted(mask, TABLE))


def test_predicting_writes_the_figures_where_asked(arrays, tmp_path):
    torch.manual_seed(0)
    predictor = Predictor(FCN.build(TABLE, encoder_weights="none", decoder="lecture", width=2))
    found = find_images([arrays / "images_testing.npy"])
    assert predict_files(predictor, found, tmp_path / "out", overlay=False, lecture=True) == 2
    folder = tmp_path / "out" / "images_testing"
    endings = ("", "_lecture_maps", "_lecture_mask", "_lecture_overlay")
    expected = [f"{index}{ending}.png" for index in "01" for ending in endings]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    with Image.open(folder / "0_lecture_mask.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", SIZE[::-1])
