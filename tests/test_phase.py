"""How weights are moved: schedules, optimisers, accumulation, clipping, averages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import make_thin

from fullyconv.batches import PointBatch
from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.decoders import build_decoder
from fullyconv.model import FCN
from fullyconv.phase import Phase, one_cycle, poly
from fullyconv.taps import FeatureSpec, Tap
from fullyconv.trained_part import TrainedPart

SPECS = (FeatureSpec(Tap("tap", 8, 6, 16)),)
PLAIN = recipe(threads=1, scales=(1.0,), hidden=0, dropout=0.0, steps=0, schedule="constant", lr=0.1)


class Batches:
    """So many batches of points, the same in every epoch."""

    skipped = 0

    def __init__(self, count, size=8):
        draw = torch.Generator().manual_seed(0)
        self.items = [
            PointBatch(
                [torch.randn(size, 6, generator=draw)],
                torch.randint(3, (size,), generator=draw),
                torch.ones(size),
            )
            for _ in range(count)
        ]

    def __len__(self):
        return len(self.items)

    def epoch(self, epoch):
        return iter(self.items)


def phase(batches, **changes):
    torch.manual_seed(0)
    part = build_decoder("practical", SPECS, 3)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Phase(replace(PLAIN, **changes), part, batches, None, lr=changes.get("lr", 0.1), epochs=2)


def weights_after(batches, **changes):
    trained = phase(batches, **changes)
    trained.part.train()
    trained.run_epoch(0, lambda: None)
    return torch.cat([weight.detach().flatten() for weight in trained.part.parameters()])


def test_one_cycle_rises_then_falls_to_nearly_nothing():
    rates = np.array([one_cycle(position) for position in np.linspace(0, 1, 101)])
    assert rates[0] == pytest.approx(1 / 25)
    assert rates.argmax() == 30
    assert rates.max() == pytest.approx(1)
    assert rates[-1] == pytest.approx(1e-4)


def test_poly_falls_from_one_to_nothing():
    rates = [poly(position) for position in np.linspace(0, 1, 11)]
    assert rates[0] == 1
    assert rates[-1] == 0
    assert rates[5] == pytest.approx(0.5**0.9)


def test_sgd_with_momentum_is_what_the_formula_says():
    trained = phase(Batches(1), optimizer="sgd", momentum=0.5, weight_decay=0.0)
    (bias,) = (weight for name, weight in trained.part.named_parameters() if name == "bias")
    places = [bias.detach().clone()]
    gradients = []
    bias.register_hook(lambda gradient: gradients.append(gradient.clone()))
    for epoch in range(2):
        trained.run_epoch(epoch, lambda: None)
        places.append(bias.detach().clone())
    assert torch.allclose(places[1], places[0] - 0.1 * gradients[0])
    assert torch.allclose(places[2], places[1] - 0.1 * (0.5 * gradients[0] + gradients[1]))


def test_biases_learn_at_twice_the_rate_and_do_not_decay_where_asked_for():
    groups = phase(Batches(1), optimizer="sgd", weight_decay=0.01, double_bias_lr=True).optimizer.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.01), (0.2, 0.0)]
    assert all(weight.ndim == 1 for weight in groups[1]["params"])


@pytest.mark.parametrize("times", [2, 3])
def test_accumulated_batches_make_one_step_of_their_mean(times):
    once = Batches(1)
    again = Batches(1)
    again.items *= times
    plain = {"optimizer": "sgd", "weight_decay": 0.0}
    expected = weights_after(once, **plain)
    assert torch.allclose(weights_after(again, accumulate=times, **plain), expected, atol=1e-6)
    assert torch.allclose(weights_after(again, accumulate=100, **plain), expected, atol=1e-6)
    assert not torch.allclose(weights_after(again, **plain), expected, atol=1e-3)


def test_a_clipped_gradient_is_as_long_as_allowed():
    lengths = []
    for clip in (0.0, 1e-3):
        trained = phase(Batches(1), optimizer="sgd", clip=clip, weight_decay=0.0)
        before = torch.cat([weight.detach().flatten() for weight in trained.part.parameters()])
        trained.run_epoch(0, lambda: None)
        after = torch.cat([weight.detach().flatten() for weight in trained.part.parameters()])
        lengths.append(float((after - before).norm()) / 0.1)
    assert lengths[0] > 1e-2
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3)


def test_averages_are_those_of_the_weights_after_each_step():
    trained = phase(Batches(3), ema=0.9)
    seen = []
    step = trained.optimizer.step
    trained.optimizer.step = lambda: (step(), seen.append(trained.part.bias.detach().clone()))
    trained.run_epoch(0, lambda: None)
    average = seen[0]
    for place in seen[1:]:
        average = 0.9 * average + 0.1 * place
    with trained.averaged():
        assert torch.allclose(trained.part.bias, average)
    assert torch.equal(trained.part.bias, seen[-1])


def test_a_phase_goes_on_from_its_state():
    whole = phase(Batches(3), ema=0.9)
    for epoch in range(2):
        whole.run_epoch(epoch, lambda: None)
    half = phase(Batches(3), ema=0.9)
    half.run_epoch(0, lambda: None)
    rest = phase(Batches(3), ema=0.9)
    rest.load(half.state())
    rest.run_epoch(1, lambda: None)
    for one, other in zip(whole.part.parameters(), rest.part.parameters(), strict=True):
        assert torch.equal(one, other)
    with whole.averaged(), rest.averaged():
        assert torch.equal(whole.part.bias, rest.part.bias)


def test_every_trained_weight_is_in_one_group(monkeypatch):
    make_thin(monkeypatch, 8)
    model = FCN.build(ClassTable.from_values(range(3)), encoder_weights="none")
    model.encoder.network.register_parameter("gain", torch.nn.Parameter(torch.tensor(1.0)))
    part = TrainedPart(model.encoder, model.decoder)
    for changes in ({}, {"double_bias_lr": True}):
        config = replace(PLAIN, train_encoder="all", **changes)
        groups = Phase(config, part, Batches(1), None, lr=0.1, epochs=1).optimizer.param_groups
        grouped = [weight for group in groups for weight in group["params"]]
        assert len(grouped) == len(set(grouped)) == len(list(part.parameters()))
        assert set(grouped) == set(part.parameters())
