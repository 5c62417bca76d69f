"""Which pixels are drawn: every class of an image, each pixel once, and their shares give the mean over all."""

import pytest
import torch

from fullyconv.draws import draw_pixels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def classes_of(*counts):
    """So many pixels of each class, shuffled."""
    classes = torch.cat([torch.full((count,), index, dtype=torch.uint8) for index, count in enumerate(counts)])
    return classes[torch.randperm(len(classes), generator=seeded(7))]


def drawn_of(classes, count, seed=0):
    chosen, shares = draw_pixels(classes, count, seeded(seed))
    return chosen, shares, torch.bincount(classes[chosen].long(), minlength=int(classes.max()) + 1).tolist()


def test_ignored_pixels_are_never_drawn():
    target = torch.full((500,), 255, dtype=torch.uint8)
    target[::7] = classes_of(60, 12)
    for count in (1, 5, 50, 72, 400):
        chosen, shares = draw_pixels(target, count, seeded())
        assert (target[chosen] != 255).all()
        assert len(chosen) == min(72, count)
        assert shares.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("counts", [(9000, 1000), (5000, 3, 40), (20,), (0, 50, 0, 5000), (1, 1, 1, 997)])
@pytest.mark.parametrize("count", [1, 7, 64, 512, 10**6])
def test_as_many_different_pixels_are_drawn_as_asked_for_and_there_are(counts, count):
    chosen, shares, _ = drawn_of(classes_of(*counts), count)
    assert len(chosen) == len(shares) == min(count, sum(counts))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert shares.mean().item() == pytest.approx(1, rel=1e-5)


def test_half_of_the_draws_are_proportional_and_half_are_even():
    _, _, drawn = drawn_of(classes_of(90_000, 10_000), 1000)
    assert drawn == [450 + 250, 50 + 250]


def test_what_a_rare_class_cannot_use_goes_to_the_others():
    _, _, drawn = drawn_of(classes_of(90_000, 10_000, 3), 1000)
    assert drawn[2] == 3
    assert drawn[0] + drawn[1] == 997
    assert drawn[0] / drawn[1] == pytest.approx((450 + 1000 / 6) / (50 + 1000 / 6), rel=0.02)


def test_the_shares_of_a_class_sum_up_to_its_part():
    classes = classes_of(90_000, 9_000, 1_000)
    chosen, shares, _ = drawn_of(classes, 400)
    for index, part in enumerate((0.9, 0.09, 0.01)):
        assert shares[classes[chosen] == index].sum().item() == pytest.approx(400 * part, rel=1e-5)


def test_where_all_are_taken_each_stands_for_itself():
    _, shares, _ = drawn_of(classes_of(30, 2, 5), 37)
    assert shares.tolist() == pytest.approx([1] * 37)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_mean_of_the_drawn_is_the_mean_of_all_on_average(count):
    classes = classes_of(300, 40, 2)
    values = torch.arange(342.0) % 17 + 50 * classes
    means = [
        (values[chosen] * shares).mean() for chosen, shares, _ in (drawn_of(classes, count, s) for s in range(600))
    ]
    means = torch.stack(means)
    assert abs(means.mean() - values.mean()) < 3.5 * means.std() / 600**0.5


def test_every_pixel_of_a_class_is_drawn_as_often_as_the_shares_say():
    classes = classes_of(30, 12)
    weighed = torch.zeros(42)
    for seed in range(3000):
        chosen, shares, _ = drawn_of(classes, 10, seed)
        weighed[chosen] += shares
    expected = 3000 * 10 / 42
    assert (weighed - expected).abs().max() < 0.2 * expected


def test_the_draws_of_a_class_are_spread_over_its_pixels():
    chosen, shares, _ = drawn_of(torch.zeros(1000, dtype=torch.uint8), 100)
    assert (chosen // 10).tolist() == list(range(100))
    assert shares.tolist() == pytest.approx([1] * 100)


def test_the_draw_is_the_same_for_the_same_generator():
    classes = classes_of(500, 20)
    first, again, other = (drawn_of(classes, 50, seed)[0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_without_labelled_pixels_nothing_is_drawn():
    for target in (torch.zeros(0, dtype=torch.uint8), torch.full((9,), 255, dtype=torch.uint8)):
        chosen, shares = draw_pixels(target, 5, seeded())
        assert chosen.tolist() == shares.tolist() == []
