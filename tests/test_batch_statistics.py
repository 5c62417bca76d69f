"""Batch norm by the statistics of a batch that processes share, against torch's of the whole batch."""

import pytest
import torch
from test_processes import alone  # noqa: F401 - a fixture
from torch.nn import functional

from fullyconv import processes
from fullyconv.batch_statistics import learned, normalised
from fullyconv.decoder import BatchNorm
from fullyconv.encoders.fixed_norm import FixedNorm

SHAPES = [(5, 4, 3, 2), (7, 4)]


class Halves:
    """Stands for two processes of which this one has no more than a part of the batch: adds what the other has."""

    def __init__(self, monkeypatch, *others):
        self.others = list(others)
        monkeypatch.setattr(processes, "total", lambda values: values + self.others.pop(0).to(values))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_batch_norm_of_torch(shape):
    torch.manual_seed(0)
    values, towards = torch.randn(shape) * 3 + 10, torch.randn(shape)
    scale, shift = torch.rand(4), torch.randn(4)
    found = []
    for compute in (normalised, None):
        weight, bias, given = (t.clone().requires_grad_() for t in (scale, shift, values))
        means, variances = torch.full((4,), 2.0), torch.full((4,), 3.0)
        if compute:
            result = compute(given, means, variances, weight, bias, 0.1, 1e-3)
        else:
            result = functional.batch_norm(given, means, variances, weight, bias, True, 0.1, 1e-3)
        (result * towards).sum().backward()
        found.append([result, weight.grad, bias.grad, given.grad, means, variances])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mine", [2, 0])
def test_statistics_are_those_of_the_whole_batch(shape, mine, monkeypatch):
    torch.manual_seed(0)
    values = torch.randn(shape) * 3 + 100
    axes = [axis for axis in range(len(shape)) if axis != 1]
    other = values[mine:].double()
    count = other.numel() // 4
    Halves(monkeypatch, torch.stack([torch.full((4,), float(count)), other.sum(axes), other.square().sum(axes)]))
    means, variances = torch.zeros(4), torch.ones(4)
    found = learned(values[:mine], means, variances, 0.1)
    torch.testing.assert_close(found[0], values.mean(axes), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], values.var(axes, correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(means, 0.1 * values.mean(axes))
    torch.testing.assert_close(variances, 0.9 + 0.1 * values.var(axes), rtol=1e-4, atol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_value_of_a_channel_is_normalised_by_the_running_statistics(count):
    values, means, variances = torch.randn(count, 4), torch.full((4,), 2.0), torch.full((4,), 3.0)
    assert learned(values, means, variances, 0.1) == (means, variances)
    result = normalised(values, means, variances, torch.ones(4), torch.zeros(4), 0.1, 0.0)
    torch.testing.assert_close(result, (values - 2) / 3**0.5)
    assert means.tolist() == [2] * 4


@pytest.mark.parametrize("make", [lambda: FixedNorm(4, 1e-3), lambda: BatchNorm(4)])
def test_batch_norms_use_it_among_several_processes(make, alone):  # noqa: F811
    values = torch.randn(3, 4, 2, 2)
    norm, other = make().train(), make().train()
    theirs = other(values)
    with processes.joined(torch.device("cpu")):
        ours = norm(values)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(norm.running_var, other.running_var)
        empty = norm(values[:0].requires_grad_())
        assert empty.shape == (0, 4, 2, 2)
        if isinstance(norm, BatchNorm):
            for mine, native in zip(norm.statistics(values), other.statistics(values), strict=True):
                torch.testing.assert_close(mine, native)
