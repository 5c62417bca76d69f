"""Layers of the encoder and the decoder as one: the same numbers as apart, the right weights trained."""

import pytest
import torch
from tiny_networks import make_thin

from fullyconv.class_table import ClassTable
from fullyconv.encoders.fixed_norm import FixedNorm
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.trained_part import TrainedPart

TABLE = ClassTable.from_values(range(3))
IMAGES = torch.randint(0, 256, (2, 3, 70, 90), generator=torch.Generator().manual_seed(0)).float()


@pytest.fixture(autouse=True)
def thin(monkeypatch):
    make_thin(monkeypatch, 8)


def tiny(encoder="efficientnet_lite0", decoder="practical", **options):
    torch.manual_seed(1)
    model = FCN.build(TABLE, encoder=encoder, encoder_weights="none", decoder=decoder, **options)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_its_state_is_that_of_the_trained_layers_and_the_decoder():
    model = tiny()
    names = {f"layers.0.{name}" for name in model.encoder.network.state_dict()}
    names |= {f"decoder.{name}" for name in model.decoder.state_dict()}
    assert set(TrainedPart(model.encoder, model.decoder).state_dict()) == names


def given_to(part):
    return [IMAGES] if part.front is None else [maps.float() for maps in part.front(IMAGES)]


@pytest.mark.parametrize("from_stride", [None, 8, 16, 32])
@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ("efficientnet_lite0", "practical", {"scales": (1.0, 1.5), "hidden": 4}),
        ("efficientnet_lite0", "fcn", {"stride": 32}),
        ("resnet18", "fcn", {"stride": 8}),
        ("vgg16", "fcn", {"stride": 8, "fc": False}),
    ],
)
def test_the_logits_are_those_of_the_model(encoder, decoder, options, from_stride):
    model = tiny(encoder, decoder, **options).eval()
    expected = model.logits(model.features(IMAGES), (70, 90))
    part = TrainedPart(model.encoder, model.decoder, from_stride).eval()
    assert torch.allclose(part(given_to(part), (70, 90)), expected, atol=2e-5)


@pytest.mark.parametrize("from_stride", [None, 16])
def test_every_trained_layer_gets_a_gradient_and_no_other(from_stride):
    model = tiny()
    part = TrainedPart(model.encoder, model.decoder, from_stride).train()
    part(given_to(part), (70, 90)).square().mean().backward()
    layers = dict(model.encoder.network.named_parameters())
    trained = {name for name, weight in layers.items() if weight.grad is not None}
    assert trained == {name for name, weight in layers.items() if weight.requires_grad}
    if from_stride is None:
        assert trained == set(layers)
    else:
        first = [name.split(".")[1] for name in sorted(trained)]
        assert set(first) == {"4", "5", "6", "7"}  # Stages 1 to 3 end at stride 8.


def test_features_in_front_are_those_of_images_padded_for_the_whole_encoder():
    part = TrainedPart((model := tiny()).encoder, model.decoder, 16)
    assert part.front.stride_grid == 32
    assert part.front(IMAGES)[-1].shape[-2:] == (96 // 8, 96 // 8)
    assert part.front.digest() != model.encoder.digest()


def test_the_encoder_gives_the_new_features_as_soon_as_layers_are_trained():
    model = tiny()
    before = model.features(IMAGES)
    part = TrainedPart(model.encoder, model.decoder)
    with torch.no_grad():
        part.layers[0].stages["1"][0].project.conv.weight.mul_(2)
    assert not torch.equal(model.features(IMAGES)[0], before[0])


@pytest.mark.parametrize("live", [False, True])
def test_statistics_follow_the_batches_where_they_live(live):
    model = tiny()
    part = TrainedPart(model.encoder, model.decoder, live_statistics=live).train()
    norms = [module for module in model.encoder.network.modules() if isinstance(module, FixedNorm)]
    before = [norm.running_mean.clone() for norm in norms]
    with torch.no_grad():
        part([IMAGES], (70, 90))
    assert all(torch.equal(norm.running_mean, mean) != live for norm, mean in zip(norms, before, strict=True))
    part.eval()
    assert not any(module.training for module in part.modules())


def test_bfloat16_is_computed_by_autocast_and_weights_stay_float32():
    model = tiny()
    model.encoder.set_precision(torch.bfloat16)
    part = TrainedPart(model.encoder, model.decoder).train()
    logits = part([IMAGES], (70, 90))
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert {weight.grad.dtype for weight in part.parameters()} == {torch.float32}


def test_auxiliary_logits_take_one_way_through_the_encoder():
    model = tiny("resnet50_d8", "torchvision", auxiliary=True)
    part = TrainedPart(model.encoder, model.decoder).eval()
    runs = []
    part.layers[0].register_forward_hook(lambda *_: runs.append(1))
    logits = part.training_logits([IMAGES], (70, 90))
    assert len(logits) == 2
    assert torch.equal(logits[0], part([IMAGES], (70, 90)))
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("from_stride", "message"),
    [
        (4, "encoder efficientnet_lite0 can be trained from stride 8 or 16 or 32 on with this decoder, got 4"),
        (64, "got 64"),
    ],
)
def test_a_stride_without_layers_is_refused(from_stride, message):
    model = tiny()
    with pytest.raises(UsageError, match=message):
        TrainedPart(model.encoder, model.decoder, from_stride)


def test_a_network_that_does_not_say_its_parts_is_trained_as_a_whole(monkeypatch):
    model = tiny()
    monkeypatch.setattr(type(model.encoder.network), "parts", lambda self: ())
    with pytest.raises(UsageError, match="can only be trained as a whole, got train_encoder 16"):
        TrainedPart(model.encoder, model.decoder, 16)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, while it compiles
def test_compiled_layers_give_the_logits_and_gradients_of_plain_ones():
    results = []
    for compiled in (False, True):
        model = tiny()
        part = TrainedPart(model.encoder, model.decoder, compiled=compiled).train()
        logits = part(given_to(part), (70, 90))
        logits.square().mean().backward()
        results.append(
            [logits.detach(), *(weight.grad for weight in part.parameters() if weight.grad is not None)]
        )
    for plain, compiled in zip(*results, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-3, atol=1e-6)  # some gradients are 0 but for rounding


def test_statistics_of_a_network_without_norms_cannot_live():
    model = tiny("vgg16", "fcn", stride=8, fc=False)
    with pytest.raises(UsageError, match=r"encoder vgg16 has none to train \(leave --live-statistics out"):
        TrainedPart(model.encoder, model.decoder, live_statistics=True)
