"""What is said of a network is what it is: each declaration is held against real modules and real outputs."""

import json

import numpy as np
import pytest
import torch
from tiny_data import tiny_encoder
from tiny_decoders import FORMS, SIZES, built, count, features_of, randomised
from torch.nn import functional

from fullyconv.ablation import Ablation, Part
from fullyconv.class_table import ClassTable
from fullyconv.decoder import resample
from fullyconv.decoders import DECODER_NAMES, needed_strides
from fullyconv.encoders import ENCODER_NAMES, bare_network
from fullyconv.encoders.cae import CAE, PRESETS, save_cae
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.explain import (
    contribution_pictures,
    describe,
    figure_files,
    find_network,
    outline_of,
    sizes_of,
    weights_to_taps,
)
from fullyconv.metrics import ConfusionMatrix
from fullyconv.model import FCN


def has_strides(encoder, decoder):
    taps = bare_network(encoder).taps
    return set(needed_strides(decoder, taps)) <= {tap.stride for tap in taps}


PAIRS = [(e, d) for e in ENCODER_NAMES for d in DECODER_NAMES if has_strides(e, d)]
NAMES = [f"{encoder}+{decoder}" for encoder, decoder in PAIRS]
# Decoders differ with the channels and strides of a family, hardly with its members.
ONE_OF_A_FAMILY = [
    name
    if name.startswith(("efficientnet_lite0", "vgg16", "resnet50_d8", "caffenet"))
    else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
]
IMAGES = [*SIZES, (160, 576), (100, 75)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model_of(form, scales=(1.0,)):
    decoder = built(FORMS[form], scales=scales)
    encoder = tiny_encoder(sorted({spec.tap.stride for spec in decoder.specs}), scales)
    return FCN(encoder, decoder, ClassTable.from_names("abc"))


def computed(stage, values, decoder, outline, features, size):
    """What a stage says of itself, computed by nothing but the named module and plain operations."""
    inputs = [values[name] for name in stage.reads]
    if stage.kind == "whole":
        result = decoder(features, size)
    elif stage.kind == "sum":
        result = sum(inputs)
        if stage.module:
            result = result + decoder.get_parameter(stage.module)[:, None, None]
    elif stage.kind == "scale":
        result = inputs[0] * stage.factor
    elif stage.kind == "upsample" and not stage.module:
        cells = sizes_of(outline, size).cells[stage.name]
        result = resample(inputs[0], stage.factor * stage.stride, stage.stride, cells)
    else:
        result = decoder.get_submodule(stage.module)(inputs[0])
    return functional.relu(result) if stage.activation else result


MULTI = [(form, (1.0, 1.5)) for form in FORMS if form.startswith("practical")]


def test_a_network_on_an_autoencoder_is_given_by_its_file(tmp_path):
    save_cae(CAE(PRESETS["digits"]), tmp_path / "cae.safetensors")
    outline = outline_of(find_network(f"cae:{tmp_path}/cae.safetensors+cae", 3, {"stride": 2}))
    assert [(part.tap, part.tap_stride) for part in outline.fixed] == [("down1", 2), ("down2", 4)]
    with pytest.raises(ModelFileError, match=r"missing.safetensors"):
        find_network("cae:missing.safetensors+cae")


@pytest.mark.parametrize(("form", "scales"), [(form, (1.0,)) for form in FORMS] + MULTI)
def test_the_declared_stages_one_by_one_are_the_decoder(form, scales):
    model = model_of(form, scales)
    decoder, outline = randomised(model.decoder), outline_of(model)
    for size in [(1, 1), (33, 70)]:
        features = features_of(decoder.specs, size)
        values = {spec.label: maps for spec, maps in zip(decoder.specs, features, strict=True)}
        for stage in outline.stages:
            assert stage.name not in values
            values[stage.name] = computed(stage, values, decoder, outline, features, size)
        logits = decoder(features, size)
        last = values[outline.stages[-1].name][..., : logits.shape[-2], : logits.shape[-1]]
        torch.testing.assert_close(last, logits)


@pytest.mark.parametrize("name", ONE_OF_A_FAMILY)
def test_declared_shapes_and_parameters_are_those_of_the_modules(name):
    model = find_network(name, classes=7)
    decoder, outline = model.decoder, outline_of(model)
    shapes = {}
    for module_name, module in decoder.named_modules():
        module.register_forward_hook(lambda _, __, out, name=module_name: shapes.update({name: tuple(out.shape)}))
    for size in [(31, 33), (100, 75)]:
        sizes = sizes_of(outline, size)
        with torch.device("meta"):
            features = [torch.zeros(1, spec.channels, *sizes.cells[spec.label]) for spec in decoder.specs]
            logits = decoder(features, size)
        for stage in outline.stages:
            if stage.module and stage.module != "bias":
                assert shapes[stage.module] == (1, stage.channels, *sizes.cells[stage.name]), stage.name
        last = sizes.cells[outline.stages[-1].name]
        if outline.output_stride == 1:  # cropped by the decoder itself
            last = min(last[0], size[0]), min(last[1], size[1])
        assert logits.shape == (1, 7, *last)
        assert outline.output_stride == decoder.output_stride


@pytest.mark.parametrize("name", [*ONE_OF_A_FAMILY, *FORMS])
def test_every_parameter_belongs_to_one_stage(name):
    decoder = built(FORMS[name]) if name in FORMS else find_network(name).decoder
    counted = [stage for stage in decoder.stages() if stage.parameters]
    for stage in counted:
        if stage.kind == "whole":
            continue
        part = dict(decoder.named_parameters()).get(stage.module)
        parameters = [part] if part is not None else list(decoder.get_submodule(stage.module).parameters())
        assert stage.parameters == sum(parameter.numel() for parameter in parameters), stage.name
    assert len({stage.module for stage in counted}) == len(counted)
    assert sum(stage.parameters for stage in counted) == count(decoder)


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.5), (0.5, 1.1)])
def test_size_arithmetic_is_that_of_real_features_and_logits(size, scales):
    model = model_of("practical, hidden", scales)
    sizes = sizes_of(outline_of(model), size)
    features = model.features(torch.zeros(1, 3, *size, dtype=torch.uint8))
    for spec, maps in zip(model.encoder.specs, features, strict=True):
        assert maps.shape[-2:] == sizes.cells[spec.label]
    assert model.logits(features, size).shape[-2:] == sizes.cells["score"]
    assert sizes.upsampled == tuple(8 * side for side in sizes.cells["score"])


def test_the_sizes_of_the_lecture_are_the_decks():
    outline = outline_of(find_network("vgg16+lecture"))
    sizes = sizes_of(outline, (160, 576))
    assert {
        name: sizes.cells[name] for name in ("maxp3", "maxp4", "maxp5", "conv6", "fcn3", "fcn2", "fcn1", "output")
    } == {
        "maxp3": (20, 72),
        "maxp4": (10, 36),
        "maxp5": (5, 18),
        "conv6": (5, 18),
        "fcn3": (5, 18),
        "fcn2": (10, 36),
        "fcn1": (20, 72),
        "output": (160, 576),
    }
    assert (outline.fixed_parameters, outline.trained_parameters) == (14_714_688, 121_799_428)
    assert outline.step_count == 4
    assert "160x576 -> 80x288 -> 40x144 -> 20x72 -> 10x36 -> 5x18" in describe(outline, sizes)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_weights_up_to_the_last_tap_are_all_there_are(name):
    network = bare_network(name)
    counts = weights_to_taps(network)
    assert tuple(counts) == network.taps
    assert sorted(set(counts.values())) == list(counts.values())
    assert counts[network.taps[-1]] == count(network)


def test_a_dilated_network_has_several_maps_of_one_stride():
    fixed = outline_of(find_network("resnet50_d8+torchvision")).fixed
    usual = outline_of(find_network("resnet50+torchvision")).fixed
    assert [found.tap_stride for found in fixed] == [4, 8, 8, 8]
    assert [found.is_read for found in fixed] == [False, False, False, True]
    assert [found.parameters for found in fixed] == [found.parameters for found in usual]


def test_vgg16_has_the_weights_between_its_taps_that_its_layers_have():
    outline = outline_of(find_network("vgg16+fcn"))
    layers = bare_network("vgg16").features
    ends = [10, 17, 24, 31]
    expected = [count(layers[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    assert [found.parameters for found in outline.fixed] == expected
    assert [found.is_read for found in outline.fixed] == [False, True, True, True]


def test_a_second_scale_is_the_same_network_on_a_larger_image():
    outline = outline_of(find_network("efficientnet_lite0+practical"))
    assert [found.label for found in outline.fixed][3:5] == ["stage7", "stage2@1.5"]
    assert outline.map("stage7@1.5").stride == pytest.approx(32 / 1.5)
    assert outline.map("stage7@1.5").receptive_field == pytest.approx(851 / 1.5)
    assert outline.fixed_parameters == 2_958_848
    assert "as above" in describe(outline)


def test_linear_networks_are_those_whose_logits_are_a_sum():
    linear = {form: outline_of(model_of(form)).is_linear for form in FORMS}
    assert {form for form, is_linear in linear.items() if not is_linear} == {
        "practical, hidden",
        "FCN-8s with fc6",
        "lecture",
        "torchvision",
        "torchvision, auxiliary",
        *(form for form in FORMS if form.startswith("autoencoder's")),
    }


def test_a_description_names_every_map_and_stage_and_its_json_too():
    outline = outline_of(find_network("vgg16+fcn_at_once", 21))
    text, values = describe(outline), json.loads(json.dumps(outline.to_json()))
    for name in ("maxp2", "maxp5", "score_fr", "scale_pool3", "fuse_pool3"):
        assert name in text
    assert [stage["name"] for stage in values["trained"]["stages"]] == [stage.name for stage in outline.stages]
    assert "21 classes; the logits are a sum over the feature maps" in text


def test_settings_shape_a_network_of_names():
    outline = outline_of(find_network("efficientnet_lite0+fcn", 3, {"stride": 16, "upsampling": "learned"}))
    assert [stage.name for stage in outline.stages][-1] == "upscore16"
    assert outline.num_classes == 3


@pytest.mark.parametrize(
    ("name", "classes", "settings", "message"),
    [
        ("nowhere", None, {}, r"a model file or ENCODER\+DECODER, got nowhere .*efficientnet_lite0.*lecture"),
        ("vgg16+unet", None, {}, r"no network vgg16\+unet \(an encoder \(.*vgg16.*\) \+ a decoder \(practical"),
        ("vgg+fcn", None, {}, r"no network vgg\+fcn"),
        ("vgg16+fcn", 0, {}, "expected 1 to 255 classes, got 0"),
        ("vgg16+lecture", None, {"stride": 16}, "decoder lecture needs stride 8, got 16"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_in_one_line(name, classes, settings, message):
    with pytest.raises(UsageError, match=message):
        find_network(name, classes, settings)


def test_a_file_has_its_own_classes_and_settings(tmp_path):
    (tmp_path / "model+1").write_text("not a model")
    with pytest.raises(UsageError, match="has its own settings, got --classes"):
        find_network(str(tmp_path / "model+1"), classes=3)
    with pytest.raises(UsageError, match="has its own settings, got --hidden"):
        find_network(str(tmp_path / "model+1"), settings={"hidden": 3})
    with pytest.raises(ModelFileError, match=r"model\+1"):
        find_network(str(tmp_path / "model+1"))


def test_an_image_has_at_least_one_pixel():
    with pytest.raises(UsageError, match="expected an image of 1x1 pixels or more, got 0x5"):
        sizes_of(outline_of(model_of("FCN-8s")), (0, 5))


def test_figures_are_named_after_what_was_asked_for(tmp_path):
    outline, path = outline_of(find_network("vgg16+lecture")), tmp_path / "figure.svg"
    assert figure_files(path, outline, steps=False, contributions=False) == {"4": path}
    steps = figure_files(path, outline, steps=True, contributions=False)
    assert steps == {str(step): tmp_path / f"figure_{step}.svg" for step in (1, 2, 3, 4)}
    with_data = figure_files(path, outline, steps=False, contributions=True)
    names = {what: file.name for what, file in with_data.items() if what != "4"}
    assert names == {"contributions": "figure_contributions.svg", "skips": "figure_skips.png"}


def test_a_figure_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    outline = outline_of(model_of("FCN-8s"))
    (tmp_path / "figure_2.png").touch()
    for path, message in [
        (tmp_path / "figure.txt", "expected a figure's name to end in .png, .svg, .pdf, got .*figure.txt"),
        (tmp_path / "nowhere" / "figure.png", "there is no folder .*nowhere"),
        (tmp_path / "figure.png", "figure_2.png is there already"),
    ]:
        with pytest.raises(UsageError, match=message):
            figure_files(path, outline, steps=True, contributions=False)


def test_contributions_are_drawn_with_a_column_for_every_stride():
    report = ConfusionMatrix(3)
    report.update(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    parts = tuple(Part(f"stride {stride}", ("a",), report.report()) for stride in (32, 16))
    mask = np.zeros((40, 60), np.uint8)
    rows = ((np.zeros((40, 60, 3), np.uint8), mask, [mask, mask + 1]),) * 2
    found = Ablation(report.report(), parts, parts, images=2, available=2, seed=0, rows=rows)
    pictures = contribution_pictures(found, ClassTable.from_names("abc"))
    assert set(pictures) == {"contributions", "skips"}
    assert pictures["skips"].shape[1] > 4 * 60
    assert len(pictures["contributions"].axes) == 2
