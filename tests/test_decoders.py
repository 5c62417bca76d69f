import functools
import json
import math

import pytest
import torch
from tiny_decoders import FORMS, SIZES, TinyNetwork, built, features_of, randomised, specs_of
from tiny_networks import deeper_slow
from torch.nn import functional

from fullyconv.decoders import DECODER_NAMES, build_decoder, decoder_options, needed_strides
from fullyconv.encoder import Encoder
from fullyconv.encoders import ENCODER_NAMES, NETWORKS
from fullyconv.errors import UsageError
from fullyconv.sizes import padded_size
from fullyconv.taps import Tap
from fullyconv.upsample import upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_full_logits_have_the_size_of_the_image_whatever_it_is(form):
    decoder = built(form)
    encoder = Encoder(TinyNetwork(), [spec.tap.stride for spec in decoder.specs])
    for size in SIZES:
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        logits = decoder(encoder(images), size)
        assert logits.shape[-2] * decoder.output_stride >= size[0]
        assert logits.shape[-1] * decoder.output_stride >= size[1]
        assert upsample_logits(logits, decoder.output_stride, size).shape == (2, 3, *size)


@functools.cache
def encoder_on_meta(name):
    with torch.device("meta"):
        return Encoder(NETWORKS[name]())


@functools.cache
def features_on_meta(name, size):
    encoder = encoder_on_meta(name)
    with torch.device("meta"):
        return encoder.network(torch.zeros(2, 3, *padded_size(size, encoder.stride_grid)), encoder.strides)


@pytest.mark.parametrize("decoder_name", DECODER_NAMES)
@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_every_decoder_runs_on_every_encoder_that_has_its_strides(name, decoder_name):
    encoder = encoder_on_meta(name)
    strides = needed_strides(decoder_name, encoder.network.taps)
    if not set(strides) <= set(encoder.strides):
        assert name.endswith("_d8")
        return
    places = [encoder.taps.index(tap) for tap in encoder.network.taps_at(strides)]
    with torch.device("meta"):
        decoder = build_decoder(decoder_name, [encoder.specs[place] for place in places], 21)
        for size in SIZES:
            logits = decoder([features_on_meta(name, size)[place] for place in places], size)
            assert upsample_logits(logits, decoder.output_stride, size).shape == (2, 21, *size)


def test_a_decoder_is_rebuilt_from_its_name_and_configuration(form):
    decoder = built(form)
    config = json.loads(json.dumps(decoder.config()))
    again = build_decoder(decoder.name, decoder.specs, 3, **config)
    again.load_state_dict(decoder.state_dict())
    assert type(again) is type(decoder)
    assert (again.name, again.config()) == (decoder.name, decoder.config())
    assert again.output_stride == decoder.output_stride
    assert form[2].items() <= config.items()


@pytest.mark.parametrize("name", [name for name in FORMS if name.startswith(("practical", "FCN"))])
def test_zero_initialised_scores_predict_all_classes_equally(name):
    decoder = built(FORMS[name], num_classes=21)
    size = (31, 33)
    logits = upsample_logits(decoder(features_of(decoder.specs, size), size), decoder.output_stride, size)
    target = torch.randint(0, 21, (1, *size))
    assert torch.equal(logits, torch.zeros(1, 21, *size))
    assert functional.cross_entropy(logits, target).item() == pytest.approx(math.log(21))
    total = functional.cross_entropy(logits, target, reduction="sum").item()
    assert total == pytest.approx(31 * 33 * math.log(21), rel=1e-5)


def test_only_the_practical_decoder_reads_points(form):
    assert built(form).reads_points == (form[0] == "practical")


HALOS = [(name, (1.0,)) for name in FORMS] + [(name, (1.5,)) for name in FORMS if name.startswith("practical")]


@pytest.mark.parametrize(("name", "scales"), HALOS)
def test_a_pixel_depends_on_no_cell_beyond_the_halo(name, scales):
    decoder = randomised(built(FORMS[name], scales=scales))
    features = [maps.requires_grad_() for maps in features_of(decoder.specs, (384, 64))]
    coarsest = max(spec.stride for spec in decoder.specs)
    logits, auxiliary = decoder(features, (384, 64)), decoder.auxiliary_logits(features, (384, 64))
    logits = logits if auxiliary is None else logits + auxiliary
    full = upsample_logits(logits, decoder.output_stride, (384, 64))
    for row in range(160, 224, 3):
        first = (math.floor((row + 0.5) / coarsest) - decoder.halo_cells) * coarsest
        last = first + (2 * decoder.halo_cells + 1) * coarsest
        gradients = torch.autograd.grad(full[0, :, row].sum(), features, retain_graph=True)
        for spec, gradient in zip(decoder.specs, gradients, strict=True):
            touched = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
            assert touched.min() * spec.stride >= first - coarsest * 1e-6
            assert (touched.max() + 1) * spec.stride <= last + coarsest * 1e-6


def taps_at(*strides):
    return tuple(Tap(f"tap{place}", stride, 3, stride) for place, stride in enumerate(strides))


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("practical", {}, (4, 8, 16, 32)),
        ("practical", {"stride": 16}, (16, 32)),
        ("fcn", {}, (8, 16, 32)),
        ("fcn", {"stride": 32}, (32,)),
        ("fcn_at_once", {}, (8, 16, 32)),
        ("lecture", {}, (8, 16, 32)),
        ("cae", {}, (4, 8, 16, 32)),
        ("cae", {"stride": 16}, (16, 32)),
        ("d2l", {}, (32,)),
        ("d2l", {"stride": 8}, (8,)),
        ("torchvision", {}, (32,)),
        ("torchvision", {"auxiliary": True}, (16, 32)),
        ("torchvision", {"stride": 8, "auxiliary": True}, (4, 8)),
        ("torchvision", {"stride": 4, "auxiliary": True}, (4,)),
    ],
)
def test_each_decoder_says_which_strides_it_reads(name, options, needed):
    assert needed_strides(name, taps_at(4, 8, 16, 32), **options) == needed


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("practical", {}, (4, 8)),
        ("practical", {"stride": 8}, (8,)),
        ("practical", {"stride": 16}, (16,)),  # which the encoder then refuses by its own name
        ("fcn", {}, (8, 16, 32)),
        ("d2l", {}, (8,)),
        ("torchvision", {}, (8,)),
        ("torchvision", {"auxiliary": True}, (8, 8)),
        ("torchvision", {"stride": 16, "auxiliary": True}, (16,)),
    ],
)
def test_on_a_dilated_encoder_a_decoder_reads_the_strides_that_there_are(name, options, needed):
    assert needed_strides(name, taps_at(4, 8, 8, 8), **options) == needed


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("fcn", 2, "decoder fcn has stride 4 or 8 or 16 or 32, not 2"),
        ("fcn_at_once", 4, "decoder fcn_at_once has stride 8 or 16 or 32, not 4"),
        ("lecture", 16, "decoder lecture has stride 8, not 16"),
        ("cae", 64, "decoder cae has stride 2 or 4 or 8 or 16 or 32, not 64"),
        ("cae", 3, r"decoder cae has stride 2 or 4 or 8 or 16 or 32, not 3 \(leave it out for 4\)"),
        ("unet", None, "there is no decoder 'unet'.*practical, fcn, fcn_at_once, lecture, d2l, torchvision, cae"),
    ],
)
def test_a_stride_that_a_decoder_does_not_have_is_refused(name, stride, message):
    with pytest.raises(UsageError, match=message):
        needed_strides(name, taps_at(4, 8, 16, 32), stride)


@pytest.mark.parametrize(
    ("name", "strides", "scales", "options", "message"),
    [
        ("unet", (8,), (1,), {}, "there is no decoder 'unet'.*choose one of practical"),
        ("fcn", (8,), (1,), {"hidden": 3}, "fcn has no option hidden.*options are stride, upsampling, fc, width"),
        ("fcn", (8,), (1,), {"at_once": True}, "fcn has no option at_once"),
        ("fcn", (8, 32), (1,), {}, "fcn needs features at strides 32, 16, 8, the encoder gives 8, 32"),
        (
            "fcn",
            (16, 32),
            (1,),
            {"stride": 8},
            "fcn needs features at strides 32, 16, 8, the encoder gives 16, 32",
        ),
        ("fcn", (8, 16, 32), (1.5,), {}, "fcn reads features at scale 1 only, got scale 1.5"),
        (
            "fcn",
            (8, 16, 32),
            (1,),
            {"upsampling": "cubic"},
            """upsampling has to be "fixed" or "learned", got 'cubic'""",
        ),
        ("fcn_at_once", (4, 8, 16, 32), (1,), {}, "fcn_at_once has stride 32, 16 or 8, not 4"),
        ("lecture", (16, 32), (1,), {}, "lecture needs features at strides 8, 16, 32, the encoder gives 16, 32"),
        ("lecture", (8, 16, 32), (1, 2), {}, "lecture reads features at scale 1 only, got scale 2"),
        ("lecture", (8, 16, 32), (1,), {"width": 0}, "width of conv6 and fcn4 has to be 1 or more, got 0"),
        ("cae", (4, 16, 32), (1,), {}, "cae needs features at strides 4, 8, 16, 32, the encoder gives 4, 16, 32"),
        ("cae", (4, 8), (2,), {}, "cae reads features at scale 1 only, got scale 2"),
        ("cae", (4, 8), (1,), {"kernel": 6}, "kernel of decoder cae has to lie in 2..5, got 6"),
        ("cae", (4, 8), (1,), {"widths": [1, 2]}, r"cae needs 1 widths from 1 up below stride 4, got \[1, 2\]"),
        ("cae", (4, 8), (1,), {"widths": [0]}, r"cae needs 1 widths from 1 up below stride 4, got \[0\]"),
        ("cae", (), (1,), {}, "cae needs strides that are powers of 2, got"),
        ("practical", (), (1,), {}, "practical needs features, got none"),
        ("d2l", (), (1,), {}, "d2l needs features at strides 32, the encoder gives none"),
        ("d2l", (32,), (1, 2), {}, "d2l reads features at scale 1 only, got scale 2"),
        ("d2l", (32,), (1,), {"width": 3}, r"d2l has no option width \(its options are none\)"),
        ("torchvision", (), (1,), {}, "torchvision needs features at strides 32, the encoder gives none"),
        (
            "torchvision",
            (32,),
            (1,),
            {"auxiliary": True},
            "auxiliary head of decoder torchvision needs features before those at stride 32, .* none",
        ),
        ("practical", (8,), (1,), {"hidden": -1}, "hidden channels have to be 0 .* or more, got -1"),
        ("practical", (8,), (1,), {"dropout": 1.0}, r"dropout has to lie in 0..1 \(1 excluded\), got 1"),
        ("practical", (8,), (1,), {"output_stride": 0}, "output stride has to be 1 or more, got 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(name, strides, scales, options, message):
    with pytest.raises(UsageError, match=message):
        build_decoder(name, specs_of(*strides, scales=scales), 3, **options)


def test_the_options_of_the_decoders_are_these():
    assert {name: decoder_options(name) for name in DECODER_NAMES} == {
        "practical": ("hidden", "dropout", "output_stride"),
        "fcn": ("stride", "upsampling", "fc", "width"),
        "fcn_at_once": ("stride", "upsampling", "fc", "width"),
        "lecture": ("width",),
        "d2l": (),
        "torchvision": ("auxiliary",),
        "cae": ("kernel", "widths"),
    }
