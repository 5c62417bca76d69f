"""What strides contribute: against a slow obvious way, and where the answer is known."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tiny_data import draw_pair, tiny_dataset, tiny_encoder, write_pair
from tiny_decoders import FORMS, built, randomised

from fullyconv.ablation import _growing, _parts, choose_images, measure_strides
from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.decoders import build_decoder
from fullyconv.encoder import Encoder
from fullyconv.encoders import bare_network
from fullyconv.errors import DataError, UsageError
from fullyconv.explain import outline_of
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.metrics import ConfusionMatrix
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.upsample import predict_mask, upsample_logits

SIZES = [(40, 70), (64, 33), (90, 100)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        _, mask = draw_pair(size, number)
        # Patches of one colour, so that no average over cells is grey.
        patches = draw.choice(np.array([0, 255], np.uint8), (math.ceil(size[0] / 8), math.ceil(size[1] / 8), 3))
        write_pair(root, f"{number}", patches.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]], mask)
    return Dataset.open(root)


def predictor_of(form, scales=(1.0,)):
    torch.manual_seed(0)
    decoder = randomised(built(FORMS[form], scales=scales))
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()  # A large one would decide everywhere.
    encoder = tiny_encoder(sorted({spec.tap.stride for spec in decoder.specs}), scales)
    return Predictor(FCN(encoder, decoder, ClassTable.from_names("abc")), device="cpu", precision="float32")


def measured(predictor, data, **options):
    return measure_strides(predictor, outline_of(predictor.model), data, **options)


def slow_report(predictor, data, removed):
    """The same with all features in memory, means over lists of cells, and full-size logits."""
    model, reader = predictor.model, FeatureReader(predictor.model.encoder, data)
    features = [[maps.double() for maps in reader.maps(sample)] for sample in data]
    means = []
    for index, spec in enumerate(model.encoder.specs):
        seen = []
        for sample, maps in zip(data, features, strict=True):
            height, width = data.read_image(sample).shape[:2]
            rows, columns = (math.ceil(math.ceil(side * spec.scale) / spec.tap.stride) for side in (height, width))
            seen.append(maps[index][0, :, :rows, :columns].flatten(1))
        means.append(torch.cat(seen, dim=1).mean(dim=1))
    matrix = ConfusionMatrix(3)
    for sample, maps in zip(data, features, strict=True):
        put = [
            torch.zeros_like(m) + mean[:, None, None] if spec.label in removed else m
            for spec, m, mean in zip(model.encoder.specs, maps, means, strict=True)
        ]
        target = data.read_target(sample)
        logits = model.logits([m.float() for m in put], target.shape)
        full = upsample_logits(logits, model.decoder.output_stride, target.shape)
        matrix.update(target, full.argmax(1)[0].numpy())
    return matrix.report("abc")


@pytest.mark.parametrize(
    ("form", "scales"), [("practical, hidden", (1.0, 1.5)), ("FCN-8s", (1.0,)), ("lecture", (1.0,))]
)
def test_measured_equals_the_slow_way(form, scales, data):
    predictor = predictor_of(form, scales)
    found = measured(predictor, data)
    assert found.whole.counts == slow_report(predictor, data, ()).counts
    for part in (*found.without, *found.down_to):
        assert part.report.counts == slow_report(predictor, data, part.labels).counts, part.name
    assert all(part.report.counts != found.whole.counts for part in found.without)


def test_what_is_taken_away_are_strides_scales_and_maps(data):
    found = measured(predictor_of("practical, hidden", (1.0, 1.5)), data)
    removed = {part.name: part.labels for part in found.without}
    assert list(removed) == [
        *("stride 32", "stride 16", "stride 8", "scale 1", "scale 1.5"),
        *("pool32", "pool32@1.5", "pool16", "pool16@1.5", "pool8", "pool8@1.5"),
    ]
    assert removed["stride 16"] == ("pool16", "pool16@1.5")
    assert removed["scale 1.5"] == ("pool8@1.5", "pool16@1.5", "pool32@1.5")
    assert [part.name for part in found.down_to] == ["stride 32", "strides 32, 16", "strides 32, 16, 8"]
    assert found.down_to[0].labels == ("pool8", "pool16", "pool8@1.5", "pool16@1.5")
    assert found.down_to[-1].report == found.whole


def test_at_one_scale_only_strides_are_taken_away(data):
    assert [part.name for part in measured(predictor_of("FCN-16s"), data).without] == ["stride 32", "stride 16"]


def test_maps_of_one_stride_are_taken_away_together_and_one_by_one():
    encoder = Encoder(bare_network("resnet50_d8"), (4, 8, 8))
    model = FCN(encoder, build_decoder("practical", encoder.specs, 2), ClassTable.from_names("ab"))
    assert _parts(model) == {
        "stride 8": ("layer3", "layer4"),
        "stride 4": ("layer1",),
        "layer3": ("layer3",),
        "layer4": ("layer4",),
        "layer1": ("layer1",),
    }
    assert _growing(model) == {"stride 8": ("layer1",), "strides 8, 4": ()}


def test_a_stride_that_the_decoder_does_not_listen_to_contributes_nothing(data):
    predictor = predictor_of("FCN-8s")
    predictor.model.decoder.score_pool4.weight.data.zero_()
    by_name = {part.name: part for part in measured(predictor, data).without}
    assert by_name["stride 16"].share == pytest.approx(0, abs=1e-12)
    assert by_name["stride 16"].report.counts == measured(predictor, data).whole.counts
    assert by_name["stride 8"].share > 0


@pytest.mark.parametrize("form", ["practical, linear", "FCN-8s", "FCN-8s, learned", "FCN-8s at once"])
def test_in_a_linear_network_the_shares_add_up_to_one(form, data):
    shares = [part.share for part in measured(predictor_of(form), data).without]
    assert sum(shares) == pytest.approx(1)
    assert len({round(share, 6) for share in shares}) > 1


@torch.no_grad()
def test_shares_are_those_of_parts_that_add_up_to_the_logits(data):
    predictor = predictor_of("practical, linear")
    model, reader = predictor.model, FeatureReader(predictor.model.encoder, data)
    specs, decoder = model.encoder.specs, model.decoder
    found = {part.name: part.share for part in measured(predictor, data).without}
    sums = [torch.zeros(spec.channels, dtype=torch.float64) for spec in specs]
    cells = [0] * len(specs)
    for sample, size in zip(data, SIZES, strict=True):
        for index, (spec, maps) in enumerate(zip(specs, reader.maps(sample), strict=True)):
            rows, columns = (math.ceil(side / spec.tap.stride) for side in size)
            sums[index] += maps[0, :, :rows, :columns].double().sum((1, 2))
            cells[index] += rows * columns
    products = [0.0] * len(specs)
    for sample, size in zip(data, SIZES, strict=True):
        parts = []
        for index, maps in enumerate(reader.maps(sample)):
            away = maps.float() - (sums[index] / cells[index]).float()[:, None, None]
            norm, projection = decoder.skips[index].norm, decoder.skips[index].projection
            scaled = away * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
            part = torch.nn.functional.interpolate(
                projection(scaled), scale_factor=specs[index].stride / 4, mode="bilinear", align_corners=False
            )[..., : math.ceil(size[0] / 4), : math.ceil(size[1] / 4)].double()
            parts.append(part - part.mean(1, keepdim=True))
        for index, part in enumerate(parts):
            products[index] += float((part * sum(parts)).sum())
    for spec, product in zip(specs, products, strict=True):
        assert found[f"stride {spec.tap.stride}"] == pytest.approx(product / sum(products), rel=1e-4)


def test_a_network_that_is_not_linear_has_no_shares(data):
    assert {part.share for part in measured(predictor_of("practical, hidden"), data).without} == {None}


def test_a_few_images_are_kept_with_ever_finer_strides(data):
    predictor = predictor_of("FCN-8s")
    rows = measured(predictor, data).rows
    assert len(rows) == 3
    image, target, masks = rows[1]
    assert image.shape[:2] == target.shape == SIZES[1]
    features = [maps.float() for maps in FeatureReader(predictor.model.encoder, data).maps(data[1])]
    whole = predict_mask(predictor.model.logits(features, SIZES[1]), 8, SIZES[1])[0].numpy()
    assert len(masks) == 3
    assert (masks[-1] == whole).all()
    assert not (masks[0] == whole).all()


def test_the_images_that_are_kept_lie_far_apart(data):
    many = dataclasses.replace(data, samples=data.samples * 3)
    sizes = [image.shape[:2] for image, _, _ in measured(predictor_of("FCN-16s"), many).rows]
    assert sizes == [SIZES[0], SIZES[1], SIZES[2]]  # numbers 0, 4 and 8 of 9
    assert len(measured(predictor_of("FCN-16s"), data, images=1).rows) == 1


def test_images_are_drawn_by_the_seed_and_keep_their_order(data):
    many = dataclasses.replace(data, samples=tuple(dataclasses.replace(data[0], id=f"{n:02}") for n in range(40)))
    drawn = [sample.id for sample in choose_images(many, 7, 0)]
    assert len(drawn) == 7
    assert drawn == sorted(drawn)
    assert drawn == [sample.id for sample in choose_images(many, 7, 0)]
    assert drawn != [sample.id for sample in choose_images(many, 7, 1)]
    assert choose_images(many, 40, 0) == many
    with pytest.raises(UsageError, match="expected 1 image or more to measure on, got 0"):
        choose_images(many, 0, 0)


def test_tables_and_json_say_on_how_many_images(data):
    found = measured(predictor_of("practical, linear"), data, images=2)
    text, values = found.table(), json.loads(json.dumps(found.to_json()))
    assert "mean IoU on 2 of 3 images (seed 0)" in text
    assert "share" in text
    assert "with nothing but" in text
    assert (values["images"], values["of"], values["seed"]) == (2, 3, 0)
    first = values["without"][0]
    assert first["drop"] == pytest.approx(values["mean_iou"] - first["mean_iou"])
    assert set(first["class_iou"]) == {"a", "b", "c"}
    assert "share" not in measured(predictor_of("lecture"), data).table()


def test_the_cache_is_used(data, tmp_path):
    cache, predictor = FeatureCache(tmp_path), predictor_of("FCN-16s")
    with_cache = measured(predictor, data, cache=cache)
    assert cache.info().entries == 3
    assert (
        with_cache.table() == measured(predictor, data, cache=cache).table() == measured(predictor, data).table()
    )


def test_without_a_labelled_pixel_there_is_nothing_to_measure(tmp_path):
    data = tiny_dataset(tmp_path, [(20, 20), (20, 20)], ignored=0.0)
    nothing = ClassTable.from_names("abc")
    for sample in data:
        PillowImage.fromarray(np.full((20, 20), 255, np.uint8)).save(sample.mask)
    with pytest.raises(DataError, match="expected labelled pixels to measure, all are ignored"):
        measured(predictor_of("FCN-16s"), dataclasses.replace(data, class_table=nothing))
