"""The released FCNs' decoder and the encoders that pad for it: sizes, crops, kernels, how far a pixel sees."""

import dataclasses
import math
from functools import partial

import onnx
import pytest
import torch
from matplotlib.text import Text
from oracles import random_reference
from released import PlainAlexNet, make_narrow, parity
from torch import nn

from fullyconv.class_table import ClassTable
from fullyconv.decoder import take_over
from fullyconv.decoders import build_decoder
from fullyconv.decoders.fcn import berkeley_sizes
from fullyconv.diagrams import draw
from fullyconv.encoder import Encoder
from fullyconv.encoders import ENCODER_NAMES, RELEASED, bare_network
from fullyconv.encoders.alexnet import normalise_across
from fullyconv.errors import UsageError
from fullyconv.explain import describe, outline_of, sizes_of
from fullyconv.features import FeatureReader
from fullyconv.model import FCN
from fullyconv.onnx_model import onnx_model

FORMS = {
    "32s": ("vgg16_pad_100", {"stride": 32}),
    "16s": ("vgg16_pad_100", {"stride": 16}),
    "8s": ("vgg16_pad_100", {"stride": 8}),
    "8s at once": ("vgg16_pad_100", {"stride": 8, "at_once": True}),
    "alexnet": ("caffenet_pad_100", {"stride": 32, "fc_kernel": 6, "last_kernel": 63}),
}
CROPS = {
    "32s": {1: 19},
    "16s": {16: 5, 1: 27},
    "8s": {16: 5, 8: 9, 1: 31},
    "8s at once": {16: 5, 8: 9, 1: 31},
    "alexnet": {1: 18},
}
HALOS = {"32s": 233, "16s": 241, "8s": 245, "8s at once": 245, "alexnet": 208}

# H: pool1 to pool5, fc6, upscore2, and what is cropped at the end of FCN-32s, 16s and 8s.
SIZES = {
    1: ((100, 50, 25, 13, 7), 1, 4, (64, 80, 88)),
    32: ((115, 58, 29, 15, 8), 2, 6, (96, 112, 120)),
    224: ((211, 106, 53, 27, 14), 8, 18, (288, 304, 312)),
    375: ((287, 144, 72, 36, 18), 12, 26, (416, 432, 440)),
    500: ((349, 175, 88, 44, 22), 16, 34, (544, 560, 568)),
    512: ((355, 178, 89, 45, 23), 17, 36, (576, 592, 600)),
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    make_narrow(monkeypatch, 16)


def built(form, classes=2, width=3):
    name, options = FORMS[form]
    encoder = Encoder(bare_network(name), [step for step in (8, 16, 32) if step >= options["stride"]])
    decoder = build_decoder("fcn_pad_100", encoder.specs, classes, width=width, **options)
    return FCN(encoder, decoder, ClassTable.from_values(range(classes))).eval()


class Watched:
    """Heights of what modules and poolings give."""

    def __init__(self, monkeypatch):
        self.pools = []
        pool = torch.nn.functional.max_pool2d

        def watched(*args, **options):
            self.pools.append((result := pool(*args, **options)).shape[-2])
            return result

        monkeypatch.setattr(torch.nn.functional, "max_pool2d", watched)


def noted(found, name, module, inputs, result):
    found[name] = result.shape[-2]


@pytest.mark.parametrize("height", SIZES)
def test_maps_have_the_sizes_of_the_released_networks(height, monkeypatch):
    pools, fc6, upscore2, raw = SIZES[height]
    watched = Watched(monkeypatch)
    for form, length in zip(("32s", "16s", "8s"), raw, strict=True):
        model, found = built(form), {}
        for name, layer in model.decoder.named_children():
            layer.register_forward_hook(partial(noted, found, name))
        watched.pools.clear()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, height, 1)).shape == (1, 2, height, 1)
        assert tuple(watched.pools) == pools
        assert found["fc6"] == fc6
        assert found[{"32s": "upscore", "16s": "upscore16", "8s": "upscore8"}[form]] == length
        if form != "32s":
            assert found["upscore2"] == upscore2
    assert berkeley_sizes(height).pools == pools  # what `fullyconv.decoders.fcn` says of them


@pytest.mark.parametrize("form", FORMS)
def test_crops_and_halo_follow_from_where_cells_lie(form):
    model = built(form)
    assert model.decoder.crops == CROPS[form]
    assert dataclasses.astuple(model.halo) == (HALOS[form], HALOS[form])
    assert model.tile_grid == 32


@pytest.mark.parametrize("form", FORMS)
def test_the_output_has_the_size_of_the_input(form):
    model = built(form)
    with torch.no_grad():
        for side in (*range(1, 40), 63, 64, 65, 97):
            assert model(torch.zeros(1, 3, side, 1)).shape == (1, 2, side, 1)
            assert model(torch.zeros(1, 3, 2, side)).shape == (1, 2, 2, side)


@pytest.mark.parametrize("form", FORMS)
def test_a_pixel_sees_nearly_as_far_as_the_halo_and_no_farther(form):
    model = built(form)
    for tensor in model.state_dict().values():
        tensor.fill_(
            1 / tensor[0].numel() if tensor.ndim > 1 else 0
        )  # what is lit anywhere, lights what it reaches
    height, halo = 608, HALOS[form]
    images = torch.full((1, 3, height, 1), 200.0)
    farthest = 0
    with torch.no_grad():
        dark = model(images)
        for row in range(height // 2, height // 2 + 32, 3):
            lit = images.clone()
            lit[:, :, row] = 1e6
            rows = (model(lit) != dark).any(1).flatten().nonzero()
            farthest = max(farthest, int(rows.max()) - row, row - int(rows.min()))
    assert halo - 8 <= farthest <= halo


@pytest.mark.parametrize("kernel", [4, 16, 32, 63, 64])
def test_upsampling_begins_with_the_authors_kernels(kernel):
    stride = {4: 8, 16: 8, 32: 16, 63: 32, 64: 32}[kernel]
    name, options = "vgg16_pad_100", {"stride": stride}
    if kernel == 63:
        name, options = FORMS["alexnet"]
    encoder = Encoder(bare_network(name), [step for step in (8, 16, 32) if step >= stride])
    decoder = build_decoder("fcn_pad_100", encoder.specs, 2, width=3, **options)
    layers = [layer for layer in decoder.children() if isinstance(layer, nn.ConvTranspose2d)]
    weight = next(layer.weight.detach() for layer in layers if layer.kernel_size == (kernel, kernel))
    factor = math.ceil(kernel / 2)
    centre = factor - 1 if kernel % 2 else factor - 0.5
    for row in range(kernel):
        for column in range(0, kernel, 3):
            expected = (1 - abs(row - centre) / factor) * (1 - abs(column - centre) / factor)
            for out in range(2):
                for into in range(2):
                    assert float(weight[into, out, row, column]) == pytest.approx(
                        expected * (into == out), abs=1e-6
                    )


def test_normalisation_across_channels_is_caffes():
    maps = torch.randn(2, 7, 3, 4) * 100
    found = normalise_across(maps)
    for channel in range(7):
        squares = sum(maps[:, other].double() ** 2 for other in range(max(0, channel - 2), min(7, channel + 3)))
        expected = maps[:, channel] / (1 + 1e-4 / 5 * squares) ** 0.75
        torch.testing.assert_close(found[:, channel].double(), expected, rtol=1e-6, atol=0)
    assert normalise_across(maps.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(1, 1), (45, 70), (100, 33)])
def test_alexnet_is_a_plain_networks(size):
    reference = random_reference(lambda: PlainAlexNet(divisor=16))
    model = built("alexnet", classes=21, width=256)
    for part in (model.encoder.network, model.decoder):
        part.load_state_dict({key: reference.state_dict()[key] for key in part.state_dict()})
    assert parity(model, reference, size) < 1e-5


def test_the_stages_say_the_layers_by_name():
    names = [stage.name for stage in built("8s at once").decoder.stages()]
    assert names[:6] == ["fc6", "fc7", "score_fr", "upscore2", "scale_pool4", "score_pool4"]
    assert names[6:] == ["fuse_pool4", "upscore_pool4", "scale_pool3", "score_pool3", "fuse_pool3", "upscore8"]
    assert built("32s").decoder.stages()[-1].note == "cropped from pixel 19 on"


@pytest.mark.parametrize("form", FORMS)
def test_the_declared_stages_one_by_one_are_the_decoder(form):
    torch.manual_seed(0)
    model, size = built(form), (33, 47)
    decoder = model.decoder
    for tensor in decoder.state_dict().values():
        tensor.normal_()
    with torch.no_grad():
        features = [maps.normal_() for maps in model.encoder(torch.zeros(1, 3, *size))]
        values = dict(zip([spec.label for spec in decoder.specs], features, strict=True))
        for stage in decoder.stages():
            inputs = [values[name] for name in stage.reads]
            if stage.kind == "sum":
                result = inputs[0] + inputs[1][..., : inputs[0].shape[-2], : inputs[0].shape[-1]]
            else:
                result = (
                    inputs[0] * stage.factor
                    if stage.kind == "scale"
                    else decoder.get_submodule(stage.module)(*inputs)
                )
            if "cropped" in stage.note:
                first = int(stage.note.split()[3])
                result = result[..., first:, first:]
            values[stage.name] = result.relu() if stage.activation else result
            assert result.shape[1] == stage.channels
        logits = decoder(features, size)
        torch.testing.assert_close(result[..., :33, :47], logits, rtol=1e-4, atol=1e-4)
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    assert sum(stage.parameters for stage in decoder.stages()) == parameters


def test_what_needs_maps_that_are_parts_of_the_image_is_refused():
    model = built("8s")
    outline = outline_of(model)
    assert "; sizes: pad-100" in describe(outline)
    words = [text.get_text() for text in draw(outline).findobj(Text)]
    assert any("stride 16" in text for text in words)
    assert not any("H/16" in text for text in words)
    with pytest.raises(UsageError, match=r"images are padded to a stride, vgg16_pad_100 is pad-100"):
        sizes_of(outline, (33, 47))
    with pytest.raises(UsageError, match=r"encoder vgg16_pad_100 \(pad-100\) cannot be exported"):
        onnx_model(onnx, model, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda specs: build_decoder("fcn_pad_100", specs, 2, stride=4), "has stride 32, 16 or 8, not 4"),
        (lambda specs: build_decoder("fcn_pad_100", specs, 2, last_kernel=63), "crops whole cells"),
        (lambda specs: build_decoder("fcn_pad_100", specs, 2, hidden=3), "has no option hidden"),
        (lambda specs: Encoder(bare_network("vgg16_pad_100"), (32,), (1.5,)), "sees them at scale 1 only"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    specs = Encoder(bare_network("vgg16_pad_100"), (8, 16, 32)).specs
    with pytest.raises(UsageError, match=message):
        change(specs)


def test_parts_of_different_size_policies_do_not_go_together():
    padded, usual = Encoder(bare_network("vgg16_pad_100")), Encoder(bare_network("vgg16"), (8, 16, 32))
    table = ClassTable.from_values(range(2))
    for encoder, name in ((usual, "fcn"), (padded, "fcn")):
        decoder = build_decoder(name, encoder.specs, 2, fc=False)
        if encoder is usual:
            FCN(encoder, decoder, table)
            continue
        with pytest.raises(
            UsageError, match="decoder fcn reads features of the size policy pad-to-stride, encoder vg"
        ):
            FCN(encoder, decoder, table)


def test_training_starts_from_what_fits_of_an_imported_decoder():
    model = built("8s")
    specs = Encoder(bare_network("vgg16"), (8, 16, 32)).specs
    learner = build_decoder("fcn", specs, 2, width=3, fc=True, upsampling="learned")
    assert take_over(learner, model.decoder) == (13, 13)
    assert torch.equal(learner.fc6.weight, model.decoder.fc6.weight)


def test_their_features_are_neither_cached_nor_trained_on():
    assert not set(RELEASED) & set(ENCODER_NAMES)
    with pytest.raises(UsageError, match=r"vgg16_pad_100 \(pad-100\) serve prediction only"):
        FeatureReader(Encoder(bare_network("vgg16_pad_100")), None)
