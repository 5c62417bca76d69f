"""Losses: what they are by definition, what the sampled one estimates, and what ignored pixels do (nothing)."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional

from fullyconv.losses import balanced_weights, dice_loss, map_loss, pixel_loss

WEIGHTS = torch.tensor([0.5, 3.0, 1.2])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def maps(count=3, height=4, width=5, classes=3, ignored=0.3):
    """Logits and targets, some of which are ignored."""
    targets = torch.randint(0, classes, (count, height, width))
    targets[torch.rand(targets.shape) < ignored] = 255
    return 2 * torch.randn(count, classes, height, width), targets


def slow_pixel(logits, target, weights, gamma=0.0):
    """Weighted (focal) cross entropy of one pixel, from its definition."""
    total = sum(math.exp(value) for value in logits.tolist())
    probability = math.exp(logits[target].item()) / total
    return weights[target].item() * (1 - probability) ** gamma * -math.log(probability)


def slow_map(logits, targets, weights, gamma=0.0):
    """Of each image the mean over its labelled pixels, then the mean over images that have any."""
    means = []
    for image, target in zip(logits, targets, strict=True):
        losses = [
            slow_pixel(image[:, row, column], target[row, column], weights, gamma)
            for row, column in product(range(target.shape[0]), range(target.shape[1]))
            if target[row, column] != 255
        ]
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means) if means else 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_the_full_loss_is_its_definition(weights, gamma):
    logits, targets = maps()
    targets[1] = 255
    targets[2, 0] = 255
    expected = slow_map(logits, targets, torch.ones(3) if weights is None else weights, gamma)
    assert map_loss(logits, targets, weights, gamma=gamma).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_the_loss_of_pixels_is_their_mean(weights, gamma):
    logits, targets = torch.randn(20, 3), torch.randint(0, 3, (20,))
    targets[::4] = 255
    used = torch.ones(3) if weights is None else weights
    losses = [slow_pixel(logits[i], targets[i], used, gamma) for i in range(20) if i % 4]
    found = pixel_loss(logits, targets, weights, gamma=gamma).item()
    assert found == pytest.approx(sum(losses) / 15, rel=1e-5)


def test_a_pixel_counts_as_often_as_its_share_says():
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    twice = torch.tensor([0, 0, 1, 3])
    found = pixel_loss(logits, targets, WEIGHTS, shares=torch.tensor([2.0, 1.0, 0.0, 1.0]))
    assert found.item() == pytest.approx(pixel_loss(logits[twice], targets[twice], WEIGHTS).item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_has_finite_gradients_however_sure_the_network_is(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [20.0, 0.0], [0.0, 0.0]], requires_grad=True)
    pixel_loss(logits, torch.tensor([0, 0, 0, 1]), gamma=gamma).backward()
    assert logits.grad.isfinite().all()


def test_the_gradient_of_the_focal_loss_is_that_of_its_definition():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 1, 255])
    assert torch.autograd.gradcheck(lambda values: pixel_loss(values, targets, gamma=2.0), logits)


def slow_dice(logits, targets):
    """1 minus the mean Dice coefficient of the classes in the targets, pixel by pixel."""
    classes = logits.shape[1]
    hits, predicted, wanted = ([0.0] * classes for _ in range(3))
    for image, target in zip(logits.softmax(dim=1).tolist(), targets.tolist(), strict=True):
        for row, column in product(range(len(target)), range(len(target[0]))):
            if target[row][column] == 255:
                continue
            for c in range(classes):
                predicted[c] += image[c][row][column]
            hits[target[row][column]] += image[target[row][column]][row][column]
            wanted[target[row][column]] += 1
    dice = [2 * hits[c] / (predicted[c] + wanted[c]) for c in range(classes) if wanted[c]]
    return 1 - sum(dice) / len(dice) if dice else 0.0


@pytest.mark.parametrize("absent", [False, True])
def test_dice_is_its_definition(absent):
    logits, targets = maps(classes=4)
    if absent:
        targets[targets == 2] = 0
    targets[1] = 255
    assert dice_loss(logits, targets).item() == pytest.approx(slow_dice(logits, targets), rel=1e-5)


def test_dice_is_0_for_the_targets_themselves_and_1_for_their_opposite():
    targets = torch.tensor([[[0, 1], [1, 255]]])
    right = 200 * functional.one_hot(targets.clamp(max=1), 2).permute(0, 3, 1, 2).float()
    assert dice_loss(right, targets).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, targets).item() == pytest.approx(1)


def test_the_gradient_of_dice_is_that_of_its_definition():
    logits, targets = maps(count=1, height=2, width=3)
    targets[0, 0] = torch.tensor([0, 1, 255])
    values = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: dice_loss(values, targets), values)


def every_draw(logits, targets, pixels):
    """All draws of so many labelled pixels of each image, with repetition: equally probable in training."""
    labelled = [(target.flatten() != 255).nonzero()[:, 0].tolist() for target in targets]
    for drawn in product(*(product(places, repeat=pixels) for places in labelled)):
        yield (
            torch.cat([image.flatten(1).T[list(chosen)] for image, chosen in zip(logits, drawn, strict=True)]),
            torch.cat([target.flatten()[list(chosen)] for target, chosen in zip(targets, drawn, strict=True)]),
        )


def few_labels():
    """Two images with three and two labelled pixels, of easy and hard classes."""
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    return logits, torch.tensor([[[0, 1], [2, 255]], [[1, 255], [255, 0]]])


@pytest.mark.parametrize("weights", [None, WEIGHTS.double()], ids=["unweighted", "weighted"])
def test_the_loss_of_drawn_pixels_and_its_gradient_are_the_full_ones_on_average(weights):
    logits, targets = few_labels()
    logits.requires_grad_()
    full = map_loss(logits, targets, weights)
    drawn = torch.stack([pixel_loss(*draw, weights) for draw in every_draw(logits, targets, 2)])
    assert len(drawn) == 9 * 4
    assert drawn.std() > 0.1
    assert drawn.mean().item() == pytest.approx(full.item(), rel=1e-12)
    expected, found = (torch.autograd.grad(loss, logits)[0] for loss in (full, drawn.mean()))
    torch.testing.assert_close(found, expected)


def test_dividing_by_the_drawn_weights_would_be_biased():
    logits, targets = (values[:1] for values in few_labels())
    weights = WEIGHTS.double()

    def divided(logits, targets):
        return functional.cross_entropy(logits, targets, weights, ignore_index=255).item()

    drawn = [divided(*draw) for draw in every_draw(logits, targets, 2)]
    # Of one image, and with all pixels taken, both are the same but for a constant factor: the expected weight.
    assert divided(logits, targets) == pytest.approx(
        map_loss(logits, targets, weights).item() * 3 / weights.sum().item()
    )
    assert abs(sum(drawn) / len(drawn) - divided(logits, targets)) > 0.02


def test_the_loss_of_random_pixels_comes_close_to_the_full_loss():
    logits, targets = maps(ignored=0.5)
    full = map_loss(logits, targets, WEIGHTS).item()
    chosen = [torch.randint(int((target != 255).sum()), (20_000,)) for target in targets]
    drawn_logits = [i[:, t != 255].T[places] for i, t, places in zip(logits, targets, chosen, strict=True)]
    drawn_targets = [t[t != 255][places] for t, places in zip(targets, chosen, strict=True)]
    losses = WEIGHTS[torch.cat(drawn_targets)] * functional.cross_entropy(
        torch.cat(drawn_logits), torch.cat(drawn_targets), reduction="none"
    )
    estimate = pixel_loss(torch.cat(drawn_logits), torch.cat(drawn_targets), WEIGHTS).item()
    assert abs(estimate - full) < 3 * losses.std().item() / math.sqrt(len(losses))


LOSSES = {
    "cross entropy": lambda logits, targets: map_loss(logits, targets, WEIGHTS),
    "focal": lambda logits, targets: map_loss(logits, targets, WEIGHTS, gamma=2.0),
    "dice": dice_loss,
}


@pytest.mark.parametrize("extreme", [-1e30, 0.0, 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_leave_no_trace(name, extreme):
    logits, targets = maps()
    ignored = (targets == 255)[:, None].expand_as(logits)
    plain = LOSSES[name](logits, targets)
    changed = torch.where(ignored, extreme, logits).requires_grad_()
    loss = LOSSES[name](changed, targets)
    loss.backward()
    assert loss.item() == plain.item()
    assert (changed.grad[ignored] == 0).all()
    assert (changed.grad[~ignored] != 0).all()


def test_ignored_single_pixels_leave_no_trace():
    logits, targets = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 255, 1, 255, 2, 2])
    loss = pixel_loss(logits, targets, WEIGHTS)
    loss.backward()
    labelled = targets != 255
    assert loss.item() == pytest.approx(pixel_loss(logits[labelled], targets[labelled], WEIGHTS).item())
    assert (logits.grad[~labelled] == 0).all()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_where_everything_is_ignored_the_loss_is_zero_and_nothing_is_learned(weights):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = torch.full((2, 4, 4), 255)
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, 3)
    for loss in (
        map_loss(logits, targets, weights),
        map_loss(logits, targets, weights, gamma=2.0),
        dice_loss(logits, targets),
        pixel_loss(pixels, targets.flatten(), weights),
        pixel_loss(pixels[:0], targets.flatten()[:0], weights),
    ):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss.item() == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_classes_are_weighed_by_a_power_of_their_inverse_frequency(power):
    weights = balanced_weights(torch.tensor([900, 100, 0, 9000]), power)
    assert weights[1] / weights[0] == pytest.approx(9**power)
    assert weights[1] / weights[3] == pytest.approx(90**power)
    assert weights[2] == 0


def test_power_0_weighs_all_classes_alike():
    assert balanced_weights(torch.tensor([900, 1, 33]), 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("counts", [[1, 1], [10, 0, 5], [1, 10**12], [7]])
def test_the_weight_of_a_labelled_pixel_is_1_on_average(counts, power):
    counts = torch.tensor(counts)
    weights = balanced_weights(counts, power)
    assert weights.dtype == torch.float32
    assert (counts.double() / counts.sum() @ weights.double()).item() == pytest.approx(1, rel=1e-6)


def test_balanced_weights_leave_the_loss_of_equal_pixels_alone():
    targets = torch.tensor([0, 0, 0, 1, 1, 2])
    weights = balanced_weights(targets.bincount(), 0.5)
    logits = torch.zeros(6, 3)
    assert pixel_loss(logits, targets, weights).item() == pytest.approx(math.log(3))
