"""The fixed encoder: any size, aligned scales, the same bits before and after training."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from fullyconv.encoder import Encoder, EncoderNetwork, InputConvention, tensors_digest
from fullyconv.encoders import bare_network, build_network
from fullyconv.errors import UsageError
from fullyconv.taps import Tap


class TinyNetwork(EncoderNetwork):
    """Two taps, one weight, dropout that must never run; means of the pixels under a cell."""

    name = "tiny"
    taps = (Tap("half", 2, 3, 2), Tap("quarter", 4, 3, 4))
    input_convention = InputConvention(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    weights_licence = "CC0-1.0"

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.inputs = []

    def forward(self, images, strides):
        self.inputs.append(images)
        maps = self.dropout(self.norm(images)) * self.gain
        return [functional.avg_pool2d(maps, stride) for stride in strides]


@pytest.fixture(scope="module")
def lite0():
    return build_network("efficientnet_lite0")


def tiny_encoder(strides=None, scales=(1.0,), **convention):
    network = TinyNetwork()
    if convention:
        network.input_convention = InputConvention(**convention)
    return Encoder(network, strides, scales)


def random_images(*size, count=1):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)


@pytest.mark.parametrize("scales", [(1.0,), (1.5,), (1.0, 0.25, 4.0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 32), (43, 65)])
def test_features_of_any_size_have_the_declared_shapes(lite0, size, scales):
    encoder = Encoder(lite0, (4, 16, 32), scales)
    features = encoder(random_images(*size, count=2))
    expected = [
        (2, spec.channels, *(math.ceil(side * spec.scale / 32) * 32 // spec.tap.stride for side in size))
        for spec in encoder.specs
    ]
    assert [tuple(maps.shape) for maps in features] == expected


def test_specs_follow_scales_then_strides():
    encoder = tiny_encoder(scales=(1.0, 1.5))
    assert [(spec.tap.name, spec.scale) for spec in encoder.specs] == [
        ("half", 1.0),
        ("quarter", 1.0),
        ("half", 1.5),
        ("quarter", 1.5),
    ]
    assert encoder.specs[3].stride == pytest.approx(4 / 1.5)


def test_strides_are_sorted():
    assert tiny_encoder(strides=(4, 2)).strides == (2, 4)


def test_a_stride_without_a_tap_is_refused():
    with pytest.raises(UsageError) as caught:
        tiny_encoder(strides=(4, 8))
    assert str(caught.value) == (
        "encoder tiny has features at strides 2, 4, not at 8 "
        "(choose a decoder stride among them, or an encoder that has it)"
    )


class DilatedNetwork(TinyNetwork):
    """Four taps, three of which share a stride."""

    taps = (Tap("one", 2, 3, 2), Tap("two", 4, 3, 4), Tap("three", 4, 3, 5), Tap("four", 4, 3, 6))


@pytest.mark.parametrize(
    ("strides", "names"),
    [
        ((4,), ["four"]),
        ((4, 4), ["three", "four"]),
        ((4, 2, 4), ["one", "three", "four"]),
        ((4, 4, 4), ["two", "three", "four"]),
        (None, ["one", "two", "three", "four"]),
    ],
)
def test_a_stride_that_comes_m_times_stands_for_the_m_deepest_taps_of_it(strides, names):
    encoder = Encoder(DilatedNetwork(), strides, (1.0, 1.5))
    assert [tap.name for tap in encoder.taps] == names
    assert [spec.tap.name for spec in encoder.specs] == 2 * names
    assert encoder.strides == tuple(tap.stride for tap in encoder.taps)
    assert encoder.config()["strides"] == list(encoder.strides)
    assert encoder.stride_grid == 4


def test_a_stride_that_comes_more_often_than_it_has_taps_is_refused():
    with pytest.raises(UsageError) as caught:
        Encoder(DilatedNetwork(), (2, 2, 4))
    assert str(caught.value) == (
        "encoder tiny has 1 features at stride 2, not 2 (name a stride once for each of its features)"
    )


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((0.2,), "a scale has to lie in 0.25..4, got 0.2"),
        ((5.0,), "a scale has to lie in 0.25..4, got 5"),
        ((float("nan"),), "a scale has to lie in 0.25..4, got nan"),
        ((1.0, 1), "scales have to be at least one and differ, got 1.0, 1"),
        ((), "scales have to be at least one and differ, got "),
        (
            (1.501,),
            "a scale has to be a fraction with a denominator up to 64, got 1.501 "
            "(use one such as 0.75, 1.25 or 1.5)",
        ),
    ],
)
def test_scales_that_cannot_work_are_refused(scales, message):
    with pytest.raises(UsageError) as caught:
        tiny_encoder(scales=scales)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("scales", "grid"), [((1,), 4), ((1.5,), 8), ((1, 1.5), 8), ((1.1,), 40), ((0.75, 1.5), 16)]
)
def test_crops_on_the_crop_grid_have_cell_edges_at_every_scale(scales, grid):
    encoder = tiny_encoder(scales=scales)
    assert encoder.crop_grid == grid
    assert all((grid * Fraction(str(scale))) % encoder.stride_grid == 0 for scale in scales)


def test_images_are_normalised_padded_with_zeros_and_stored_channels_last():
    encoder, images = tiny_encoder(), random_images(3, 6)
    encoder(images)
    (given,) = encoder.working_network().inputs
    mean, std = torch.tensor([10.0, 20, 30]), torch.tensor([2.0, 4, 5])
    expected = torch.zeros(1, 3, 4, 8)
    expected[:, :, :3, :6] = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(given, expected)
    assert given.is_contiguous(memory_format=torch.channels_last)


def test_channels_are_swapped_for_networks_that_want_bgr():
    convention = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    images = random_images(4, 4)
    rgb, bgr = (
        tiny_encoder((2,), **convention)(images)[0],
        tiny_encoder((2,), **convention, channel_order="BGR")(images)[0],
    )
    assert torch.equal(bgr, rgb.flip(1))


def test_float_images_give_the_features_of_bytes(lite0):
    images = random_images(20, 40)
    encoder = Encoder(lite0, (8,))
    assert torch.equal(encoder(images)[0], encoder(images.float())[0])


def test_batches_give_the_features_of_single_images(lite0):
    encoder, images = Encoder(lite0, (8, 32)), random_images(40, 50, count=3)
    for together, alone in zip(encoder(images), encoder(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_training_mode_never_reaches_the_encoder(lite0):
    model = nn.Sequential(Encoder(lite0), nn.Dropout())
    model.train()
    assert model[1].training
    assert not any(module.training for module in model[0].modules())
    assert not any(module.training for module in model[0].working_network().modules())


def test_dropout_and_batch_statistics_are_off_after_train():
    encoder = tiny_encoder().train()
    images = random_images(8, 8)
    before = encoder.digest()
    assert torch.equal(encoder(images)[0], encoder(images)[0])
    assert encoder.digest() == before


def test_features_carry_no_gradient_and_no_parameter_wants_one(lite0):
    encoder = Encoder(lite0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(maps.requires_grad for maps in encoder(random_images(32, 32)))


def test_the_digest_is_unchanged_by_training_a_decoder_on_top():
    model = nn.ModuleDict(
        {"encoder": Encoder(build_network("efficientnet_lite0"), (32,)), "decoder": nn.Conv2d(320, 2, 1)}
    )
    digest, score = model["encoder"].digest(), model["decoder"].weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model["decoder"](model["encoder"](random_images(32, 32))[0]).square().mean().backward()
        optimizer.step()
    assert model["encoder"].digest() == digest
    assert not torch.equal(model["decoder"].weight, score)


def test_the_digest_depends_on_weights_strides_scales_and_convention():
    encoders = [
        tiny_encoder(),
        tiny_encoder(strides=(2,)),
        tiny_encoder(scales=(1.5,)),
        tiny_encoder(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        tiny_encoder(),
    ]
    encoders[-1].network.gain.add_(1e-6)
    assert len({encoder.digest() for encoder in encoders}) == len(encoders)
    assert tiny_encoder().digest() == encoders[0].digest()


def test_bfloat16_computes_in_bfloat16_and_leaves_weights_and_digest_alone(lite0):
    encoder, images = Encoder(lite0), random_images(64, 64)
    exact, digest = encoder(images), encoder.digest()
    rough = encoder.set_precision(torch.bfloat16)(images)
    assert {maps.dtype for maps in rough} == {torch.bfloat16}
    assert all((a - b).norm() < 0.25 * a.norm() for a, b in zip(exact, rough, strict=True))
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
    assert encoder.digest() == digest
    again = encoder.set_precision(torch.float32)(images)
    assert all(torch.equal(a, b) for a, b in zip(exact, again, strict=True))


def test_the_working_copy_is_made_once_and_is_no_part_of_the_state(lite0):
    encoder = Encoder(lite0)
    working = encoder.working_network()
    assert encoder.working_network() is working
    assert set(encoder.state_dict()) == {f"network.{key}" for key in lite0.state_dict()}
    assert set(encoder.modules()) == {encoder, *lite0.modules()}


@pytest.mark.parametrize("assign", [False, True])
def test_weights_loaded_after_the_first_use_count(lite0, assign):
    encoder, images = Encoder(bare_network("efficientnet_lite0"), (8,)), random_images(32, 32)
    assert not encoder(images)[0].any()
    encoder.network.load_state_dict(lite0.state_dict(), assign=assign)
    assert torch.equal(encoder(images)[0], Encoder(lite0, (8,))(images)[0])


def test_weights_changed_in_place_count():
    encoder, images = tiny_encoder(), random_images(8, 8)
    before = encoder(images)[0]
    encoder.network.gain.mul_(2)
    torch.testing.assert_close(encoder(images)[0], 2 * before)


def test_an_encoder_built_in_inference_mode_works(lite0):
    with torch.inference_mode():
        encoder = Encoder(build_network("efficientnet_lite0"), (8,))
        inside = encoder(random_images(32, 32))
    assert encoder(random_images(32, 32))[0].shape == inside[0].shape


def test_digests_of_tensors_depend_on_names_types_shapes_and_bytes_but_not_on_order():
    tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(())}
    others = [
        {"a": torch.tensor([1.0, 2.0])},
        {**tensors, "a": torch.tensor([[1.0, 2.0]])},
        {**tensors, "a": torch.tensor([1.0, 2.5])},
        {**tensors, "b": torch.zeros((), dtype=torch.int32)},
        {"a": tensors["a"], "c": tensors["b"]},
    ]
    digests = {tensors_digest(tensors), tensors_digest(tensors, "header"), *map(tensors_digest, others)}
    assert len(digests) == 2 + len(others)
    assert tensors_digest(dict(reversed(tensors.items()))) == tensors_digest(tensors)


def test_digests_of_tensors_do_not_depend_on_memory_layout():
    maps = torch.randn(1, 3, 4, 5)
    assert tensors_digest({"a": maps}) == tensors_digest({"a": maps.to(memory_format=torch.channels_last)})
