import pytest
import torch
from oracles import import_torchvision, random_reference
from tiny_decoders import FORMS, built, count, features_of, specs_of
from torch.nn import functional

from fullyconv.batches import MapBatch, step_loss
from fullyconv.class_table import ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.model import FCN
from fullyconv.upsample import upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def part(state, name):
    """The tensors of a part of torchvision's network, by their names in it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def whole(depth):
    """torchvision's FCN-ResNet with random weights, and ours with the same."""
    build = getattr(import_torchvision().models.segmentation, f"fcn_resnet{depth}")
    reference = random_reference(lambda: build(weights=None, weights_backbone=None, aux_loss=True))
    table = ClassTable.from_names([f"class {index}" for index in range(21)])
    options = {"encoder": f"resnet{depth}_d8", "encoder_weights": "none", "decoder": "torchvision"}
    model = FCN.build(table, **options, auxiliary=True).eval()
    state = reference.state_dict()
    backbone = part(state, "backbone")
    model.encoder.network.load_state_dict({key: backbone[key] for key in model.encoder.network.state_dict()})
    model.decoder.load_state_dict({key: tensor for key, tensor in state.items() if "classifier" in key})
    return model, reference


@torch.no_grad()
@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.slow)])
def test_the_whole_network_gives_the_logits_of_torchvision(depth):
    model, reference = whole(depth)
    for size in [(32, 32), (40, 72), (104, 56)]:
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        expected = reference(model.encoder.normalise(images.float()))
        features = model.features(images)
        auxiliary = upsample_logits(model.decoder.auxiliary_logits(features, size), 8, size)
        for found, theirs in [(model(images), expected["out"]), (auxiliary, expected["aux"])]:
            assert found.shape == theirs.shape
            assert (found - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(("depth", "parameters"), [(50, 35_322_218), (101, 54_314_346)])
def test_the_network_has_torchvisions_parameters(depth, parameters):
    table = ClassTable.from_names([f"class {index}" for index in range(21)])
    with torch.device("meta"):
        model = FCN.build(
            table, encoder=f"resnet{depth}_d8", encoder_weights="none", decoder="torchvision", auxiliary=True
        )
    assert count(model) == parameters


@torch.no_grad()
def test_the_head_is_torchvisions():
    from torchvision.models.segmentation.fcn import FCNHead

    reference = random_reference(lambda: FCNHead(7, 3))
    decoder = built(FORMS["torchvision"]).eval()
    decoder.load_state_dict({f"classifier.{key}": tensor for key, tensor in reference.state_dict().items()})
    for size in [(32, 32), (96, 160), (1, 500)]:
        features = features_of(decoder.specs, size)
        torch.testing.assert_close(decoder(features, size), reference(features[-1]), rtol=1e-5, atol=1e-6)
    assert [type(layer).__name__ for layer in reference][2:] == ["ReLU", "Dropout", "Conv2d"]
    assert decoder.classifier[3].p == reference[3].p


def test_the_auxiliary_head_reads_the_features_before_the_deepest_also_at_another_stride():
    decoder = built(FORMS["torchvision, auxiliary"]).eval()
    features = features_of(decoder.specs, (64, 96))
    assert [spec.stride for spec in decoder.specs] == [8, 16]
    logits = decoder.auxiliary_logits(features, (64, 96))
    assert logits.shape == decoder(features, (64, 96)).shape
    # Half as many cells: bilinear reading between them is their mean.
    expected = functional.avg_pool2d(decoder.aux_classifier(features[0]), 2)
    torch.testing.assert_close(logits, expected)


def batch_for(decoder, size=(64, 64), drawn=0):
    rows, columns = torch.randint(0, 64, (2, 2, drawn))
    targets = torch.randint(0, 3, (2, *size))
    return MapBatch(features_of(decoder.specs, size, count=2), size, targets, rows, columns, torch.ones(2, drawn))


@pytest.mark.parametrize(("loss", "drawn"), [("cross_entropy", 0), ("cross_entropy", 30), ("dice", 0)])
def test_the_loss_has_half_of_the_auxiliary_heads(loss, drawn):
    decoder = built(FORMS["torchvision, auxiliary"]).eval()
    batch = batch_for(decoder, drawn=drawn)
    both = step_loss(decoder, batch, loss, None)
    swapped = decoder.auxiliary_logits(batch.features, batch.size)
    decoder.aux_classifier = None
    main = step_loss(decoder, batch, loss, None)
    decoder.forward = lambda features, size: swapped
    auxiliary = step_loss(decoder, batch, loss, None)
    assert both.item() == pytest.approx(main.item() + 0.5 * auxiliary.item())


def test_the_auxiliary_head_learns_and_changes_nothing_of_the_other():
    decoder = built(FORMS["torchvision, auxiliary"]).eval()  # Without dropout both steps are the same.
    batch = batch_for(decoder)
    step_loss(decoder, batch, "cross_entropy", None).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())
    gradients = [parameter.grad.clone() for parameter in decoder.classifier.parameters()]
    decoder.zero_grad()
    decoder.aux_classifier = None
    step_loss(decoder, batch, "cross_entropy", None).backward()
    for gradient, parameter in zip(gradients, decoder.classifier.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_without_an_auxiliary_head_there_is_nothing_of_it():
    decoder = built(FORMS["torchvision"])
    assert decoder.auxiliary_logits(features_of(decoder.specs, (32, 32)), (32, 32)) is None
    assert not [key for key in decoder.state_dict() if "aux" in key]


@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_single_cell_can_be_learned_from(auxiliary):
    decoder = build_decoder("torchvision", specs_of(16, 32), 3, auxiliary=auxiliary).train()
    features = [torch.randn(1, 6, 1, 1), torch.randn(1, 7, 1, 1)]
    assert decoder(features, (9, 9)).shape == (1, 3, 1, 1)
    if auxiliary:
        assert decoder.auxiliary_logits(features, (9, 9)).shape == (1, 3, 1, 1)
    assert not decoder.classifier[1].running_mean.any()
