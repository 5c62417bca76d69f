"""The closed form: exact sums, the answer of another implementation, and a decoder that computes it."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiny_data import tiny_dataset, tiny_encoder
from tiny_decoders import randomised, specs_of

from fullyconv.class_table import ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.discriminant import PRIOR, STEP, Sums, _cholesky, basis_of, fit_decoder, label_sums, solve
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.features import FeatureReader
from fullyconv.model import FCN
from fullyconv.transforms import PLAIN

CLASSES, CHANNELS = 4, 21
SPECS = specs_of(4, 8, 16, 32)


def cloud(pixels=900, seed=0, spread=1.0):
    """Half-precision features of pixels of overlapping classes, for each of `SPECS`, and class indices."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (pixels,), generator=draw) * torch.randint(0, 2, (pixels,), generator=draw)
    mixing = torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(99))
    means = 2 * torch.randn(CLASSES, CHANNELS, generator=torch.Generator().manual_seed(98)) + 3
    values = means[targets] + torch.randn(pixels, CHANNELS, generator=draw) @ mixing
    return list((spread * values).half().split([spec.channels for spec in SPECS], dim=1)), targets


def joined(points):
    """All channels of points, float64, as the sums see them."""
    return (torch.cat(points, dim=1).double() / STEP).round() * STEP


def equal(one, other):
    names = ("counts", "shares", "totals", "gram")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def some(points, targets, chosen):
    return Sums.of([values[chosen] for values in points], targets[chosen], num_classes=CLASSES)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 300.0, 9000.0])
def test_the_sums_are_those_of_python_integers(spread):
    points, targets = cloud(pixels=40, spread=spread)
    if spread == 9000.0:  # In single precision, so that their products fill more than the 53 bits of a float64.
        points = [values.float().clamp(-60000, 60000) + 1 / 3 for values in points]
    sums = Sums.of(points, targets, num_classes=CLASSES)
    steps = [[round(value / STEP) for value in row] for row in torch.cat(points, dim=1).double().tolist()]
    for i, j in ((0, 0), (0, 7), (20, 3), (20, 20)):
        assert sums.gram[i, j] == sum(row[i] * row[j] for row in steps)
    for label in range(CLASSES):
        mine = [row for row, target in zip(steps, targets.tolist(), strict=True) if target == label]
        assert sums.counts[label] == len(mine)
        assert sums.totals[label, 5] == sum(row[5] for row in mine)


def test_ignored_pixels_leave_no_trace():
    points, targets = cloud()
    ignored = targets.clone()
    ignored[::3] = 255
    assert equal(Sums.of(points, ignored, num_classes=CLASSES), some(points, targets, torch.arange(900) % 3 != 0))


def test_no_order_and_no_grouping_changes_a_bit():
    points, targets = cloud(pixels=9000, spread=40.0)
    whole = Sums.of(points, targets, num_classes=CLASSES)
    parts = [some(points, targets, part) for part in torch.randperm(9000).split(700)]
    forwards, backwards = parts[0], parts[-1]
    for part in parts[1:]:
        forwards = forwards + part
    for part in reversed(parts[:-1]):
        backwards = backwards + part
    assert equal(forwards, whole)
    assert equal(backwards, whole)


def test_what_is_added_and_subtracted_leaves_no_trace():
    points, targets = cloud()
    first, second = some(points, targets, slice(0, 500)), some(points, targets, slice(500, 900))
    assert equal(first + second - second, first)
    assert not equal(first + second, first)


def test_a_corrected_stroke_is_as_if_it_had_been_right_at_once():
    points, targets = cloud()
    wrong = targets.clone()
    stroke = slice(100, 160)
    wrong[stroke] = 3
    taken = Sums.of(points, wrong, num_classes=CLASSES)
    corrected = taken - some(points, wrong, stroke) + some(points, targets, stroke)
    assert equal(corrected, Sums.of(points, targets, num_classes=CLASSES))
    assert all(map(torch.equal, solve(corrected), solve(Sums.of(points, targets, num_classes=CLASSES))))


def test_subtracting_what_was_never_added_is_refused():
    points, targets = cloud()
    few, many = some(points, targets, slice(0, 100)), some(points, targets, slice(0, 900))
    with pytest.raises(UsageError, match="pixels were subtracted that had not been added"):
        few - many


@pytest.mark.parametrize(("pixels", "share"), [(2, 1.0), (1, 9.0)], ids=["pixels", "what they stand for"])
def test_subtracting_more_than_was_added_is_refused(pixels, share):
    def sums(value, pixels, share):
        points, targets = [torch.full((pixels, 2), value)], torch.zeros(pixels).long()
        return Sums.of(points, targets, torch.full((pixels,), share), num_classes=1)

    with pytest.raises(UsageError, match="pixels were subtracted that had not been added"):
        sums(9.0, 1, 5.0) - sums(1.0, pixels, share)


def test_sums_of_other_features_or_classes_are_not_added():
    points, targets = cloud()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    for other in (
        Sums.of(points[:2], targets, num_classes=CLASSES),
        Sums.of(points, targets, num_classes=9),
        Sums.of(points, targets, num_classes=4, basis="a"),
    ):
        with pytest.raises(UsageError, match="4 classes of 21 channels"):
            sums + other


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**20])
def test_features_that_cannot_be_summed_are_refused(value):
    points, targets = cloud()
    points = [values.float() for values in points]
    points[1][5, 2] = value
    with pytest.raises(UsageError, match="features have to be finite and small enough"):
        Sums.of(points, targets, num_classes=CLASSES)


def test_sums_that_would_overflow_are_refused():
    with pytest.raises(UsageError, match="small enough to be summed exactly, got 60000"):
        Sums.of([torch.full((80, 3), 60000.0)], torch.zeros(80).long(), num_classes=CLASSES)
    half = Sums.of([torch.full((50, 3), 60000.0)], torch.zeros(50).long(), num_classes=CLASSES)
    with pytest.raises(UsageError, match="too large, or too many"):
        half + half


def test_sums_come_back_from_a_file_and_merge(tmp_path):
    points, targets = cloud()
    first, second = some(points, targets, slice(0, 500)), some(points, targets, slice(500, 900))
    first.save(tmp_path / "first.safetensors")
    second.save(tmp_path / "second.safetensors")
    merged = Sums.load(tmp_path / "first.safetensors") + Sums.load(tmp_path / "second.safetensors")
    assert equal(merged, Sums.of(points, targets, num_classes=CLASSES))
    with pytest.raises(UsageError, match="exists already"):
        first.save(tmp_path / "first.safetensors")


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    points, targets = cloud()
    path = tmp_path / "sums.safetensors"
    Sums.of(points, targets, num_classes=CLASSES).save(path)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="is damaged"):
        Sums.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        Sums.load(path)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 0.3])
def test_the_answer_is_that_of_scikit_learn(shrinkage):
    points, targets = cloud()
    values = joined(points).numpy()
    within = np.sqrt(
        sum(((values[targets == c] - values[targets == c].mean(0)) ** 2).sum(0) for c in range(4)) / 900
    )
    # Correlations shrink towards none here, covariances towards equal variances there: the same for features that
    # have equal variances within the classes.
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(values / within, targets)
    weights = theirs.coef_ / within
    fit = solve(Sums.of(points, targets, num_classes=CLASSES), shrinkage=shrinkage, prior=1.0)
    np.testing.assert_allclose(fit.weights, weights - weights.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fit.biases, theirs.intercept_ - theirs.intercept_.mean(), rtol=1e-6, atol=1e-6)
    ours = values @ fit.weights.numpy().T + fit.biases.numpy()
    assert (ours.argmax(1) == theirs.predict(values / within)).all()


def test_the_exponent_of_the_prior_moves_only_the_biases():
    points, targets = cloud()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    counted, equally = solve(sums, prior=1.0), solve(sums, prior=0.0)
    assert torch.equal(counted.weights, equally.weights)
    shares = (sums.counts.double() / sums.counts.sum()).log()
    torch.testing.assert_close(counted.biases - equally.biases, shares - shares.mean())


def test_features_far_from_zero_lose_nothing():
    draw = torch.Generator().manual_seed(0)
    small = torch.randint(-3, 4, (400, 5), generator=draw).float()
    targets = torch.randint(0, 3, (400,), generator=draw)
    near = solve(Sums.of([small], targets, num_classes=3), shrinkage=0.0)
    far = solve(Sums.of([small + 16384], targets, num_classes=3), shrinkage=0.0)
    torch.testing.assert_close(far.weights, near.weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(far.variances, near.variances, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "broken",
    [
        lambda values: torch.cat([values[:, :1] * 0 + 7, values[:, 1:]], dim=1),  # a dead channel
        lambda values: torch.cat([values[:, 1:2], values[:, 1:]], dim=1),  # a channel twice
    ],
)
def test_dependent_features_are_solved_all_the_same(broken):
    points, targets = cloud()
    values = broken(joined(points))
    fit = solve(Sums.of([values], targets, num_classes=CLASSES), shrinkage=0.0)
    assert all(bool(torch.isfinite(part).all()) for part in fit)
    without = solve(Sums.of([values[:, 1:]], targets, num_classes=CLASSES), shrinkage=0.0)
    ours, theirs = values @ fit.weights.T + fit.biases, values[:, 1:] @ without.weights.T + without.biases
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [None, 0.0])
def test_fewer_pixels_than_channels_are_enough(shrinkage):
    points, targets = cloud(pixels=9)
    fit = solve(Sums.of(points, targets, num_classes=CLASSES), shrinkage=shrinkage)
    values = joined(points)
    assert ((values @ fit.weights.T + fit.biases).argmax(1) == targets).all()


def test_what_is_singular_is_shrunk_until_it_is_not():
    factor = _cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), 0.0)
    torch.testing.assert_close(factor, torch.eye(2), rtol=0, atol=1e-6)


def test_the_fewer_pixels_the_more_is_shrunk():
    points, targets = cloud()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    assert all(map(torch.equal, solve(sums), solve(sums, shrinkage=CHANNELS / (CHANNELS + 900))))


def test_a_class_without_a_pixel_is_never_predicted():
    points, targets = cloud()
    kept = targets != 2
    fit = solve(some(points, targets, kept))
    far = 1000 * torch.randn(5000, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = far @ fit.weights.T + fit.biases
    assert set(logits.argmax(1).tolist()) == {0, 1, 3}
    # Nor where the features say nothing, and all other logits are 0.
    same = solve(Sums.of([torch.ones(6, 2)], torch.tensor([0, 0, 0, 1, 1, 1]), num_classes=3))
    assert (same.weights.abs().max(), int(same.biases.argmin())) == (0, 2)


def test_nothing_to_learn_from_is_refused():
    points, targets = cloud()
    with pytest.raises(UsageError, match="no labelled pixel"):
        solve(Sums.of(points, torch.full_like(targets, 255), num_classes=CLASSES))
    with pytest.raises(UsageError, match=r"shrinkage has to lie in 0..1, got 1.5"):
        solve(Sums.of(points, targets, num_classes=CLASSES), shrinkage=1.5)


@pytest.mark.parametrize("spread", [3.0, 0.01])
def test_the_decoder_computes_the_linear_function(spread):
    points, targets = cloud(spread=spread)
    decoder = randomised(build_decoder("practical", SPECS, CLASSES)).eval()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    fit_decoder(decoder, sums)
    fit = solve(sums)
    with torch.no_grad():
        ours = decoder.point_logits([values.float() for values in points])
    expected = torch.cat(points, dim=1).double() @ fit.weights.T + fit.biases
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)
    assert (ours.argmax(1) == expected.argmax(1)).all()


def test_in_training_the_decoder_begins_with_the_same_logits():
    points, targets = cloud(spread=3.0)
    decoder = build_decoder("practical", SPECS, CLASSES).eval()
    fit_decoder(decoder, Sums.of(points, targets, num_classes=CLASSES))
    values = [part.float() for part in points]
    torch.testing.assert_close(
        decoder.train().point_logits(values), decoder.eval().point_logits(values), rtol=1e-4, atol=1e-3
    )


def test_balance_lifts_the_rare_classes():
    points, targets = cloud()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    decoders = [build_decoder("practical", SPECS, CLASSES).eval() for _ in range(2)]
    for decoder, balance in zip(decoders, (0.0, 1.0), strict=True):
        fit_decoder(decoder, sums, balance=balance)
    shares = (sums.counts / sums.counts.sum()).log()
    difference = decoders[1].bias - decoders[0].bias
    torch.testing.assert_close(difference.detach(), PRIOR * (shares.mean() - shares), rtol=1e-4, atol=1e-4)


def test_other_decoders_and_other_sums_are_refused():
    points, targets = cloud()
    sums = Sums.of(points, targets, num_classes=CLASSES)
    with pytest.raises(UsageError, match="without hidden layer"):
        fit_decoder(build_decoder("practical", SPECS, CLASSES, hidden=4), sums)
    with pytest.raises(UsageError, match="without hidden layer"):
        fit_decoder(build_decoder("fcn", SPECS[1:], CLASSES), sums)
    with pytest.raises(UsageError, match="expected sums of 5 classes of 21 channels, got 4 classes of 21"):
        fit_decoder(build_decoder("practical", SPECS, 5), sums)
    with pytest.raises(UsageError, match="without hidden layer"):
        build_decoder("practical", SPECS, CLASSES, hidden=4).set_linear(*solve(sums))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("pictures"), [(40, 52), (33, 64)])


@pytest.mark.parametrize("count", [0, 200])
def test_the_sums_of_an_image_are_those_of_its_points_in_the_cache(count, pictures):
    encoder = tiny_encoder(scales=(1.0, 1.5))
    model = FCN(encoder, build_decoder("practical", encoder.specs, 3), pictures.class_table)
    reader = FeatureReader(encoder, pictures)
    items = [(sample, PLAIN) for sample in pictures]
    drawn = reader.all_points(items, model.decoder.output_stride, 10**6, 0)
    for sample, (points, targets, shares) in zip(pictures, drawn, strict=True):
        image = torch.from_numpy(pictures.read_image(sample).copy()).permute(2, 0, 1)
        mine = label_sums(model, model.features(image[None]), pictures.read_target(sample), count=count)
        if count:
            assert int(mine.counts.sum()) == 200
            assert mine.shares.sum() / 2**32 == pytest.approx(200, rel=0.01)
        else:
            assert equal(mine, Sums.of(points, targets, shares, num_classes=3))
        assert mine.basis == basis_of(model)


def test_the_basis_names_encoder_grid_and_classes(pictures):
    def basis(table=pictures.class_table, output_stride=None, **options):
        encoder = tiny_encoder(**options)
        return basis_of(
            FCN(encoder, build_decoder("practical", encoder.specs, 3, output_stride=output_stride), table)
        )

    renamed = ClassTable.from_names(["a", "b", "c"])
    different = [basis(), basis(strides=(8, 16)), basis(scales=(2.0,)), basis(output_stride=8), basis(renamed)]
    assert len(set(different)) == len(different)
    assert basis() == basis()
