"""The closed form: sums over labelled pixels in, the linear decoder out, without a step of training.

Linear discriminant analysis takes each class for a cloud of features around its own mean, all of one shape. All it
needs to know of the pixels are three sums: how many each class has, the sum of their features, and the sum of the
products of any two features (the Gram matrix). The best linear decoder for such clouds follows from one solve.

The sums are whole numbers, of `STEP`, so no order of adding them and no number of threads changes a bit of them:
those of two processes are merged by adding, and what is subtracted leaves no trace.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.decoder import Decoder, read_points
from fullyconv.decoders.practical import PracticalDecoder
from fullyconv.draws import draw_pixels
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.feature_cache import entry_key, to_half
from fullyconv.images import show_path
from fullyconv.model import FCN
from fullyconv.shapes import Features, Mask, Points
from fullyconv.tensor_file import read_tensor_file, write_tensor_file

__all__ = ["STEP", "LinearFit", "Sums", "basis_of", "fit_decoder", "label_sums", "model_sums", "solve"]

STEP = 2.0**-12
"""Features are summed in these steps. Half-precision values from 1/4 up are multiples of it; smaller ones are
rounded, by 0.0001 at most. Features of 1,000 leave room for 274,000 pixels, smaller ones for more."""

ABSENT = -100.0
"""The bias of a class without a pixel. The logits of the others have the mean 0, so it never wins."""

PRIOR = 2.0
"""Exponent of the class shares. Bayes' rule has 1; on pixels drawn as evenly from the classes as these, 2 has a
higher mean IoU on two of three data sets, and the same on the third (docs/experiments.md)."""

_EXACT = 2.0**52
"""Sums of squares up to here keep every partial sum of products within the 53 bits of a float64."""

_LARGEST = 2**62
_ROWS = 8192
_KIND = "fullyconv_sums"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Sums:
    """What linear discriminant analysis needs to know of labelled pixels: `a + b`, `a - b`, save and load.

    Attributes:
        counts: C int64, pixels of each class.
        shares: C int64, how many pixels of their images these stand for (`fullyconv.draws`), in steps of 2**-32.
        totals: C x K int64, the sum of their features in steps of `STEP`.
        gram: K x K int64, the sum over all pixels of the products of two features, in steps of `STEP**2`.
        basis: Which features and classes these are (`basis_of`); only sums of the same can be added.
    """

    counts: Tensor
    shares: Tensor
    totals: Tensor
    gram: Tensor
    basis: str = ""

    @classmethod
    def of(
        cls, points: Points, targets: Tensor, shares: Tensor | None = None, *, num_classes: int, basis: str = ""
    ) -> "Sums":
        """Sum over pixels.

        Args:
            points: P x K float for each spec.
            targets: P class indices; 255 is left out.
            shares: P float, how many pixels each stands for; 1 if None.
            num_classes: C.
            basis: What the sums are of.

        Raises:
            UsageError: Features that are not finite, or too large to be summed exactly.
        """
        channels = sum(values.shape[1] for values in points)
        counts, totals = torch.zeros(num_classes).long(), torch.zeros(num_classes, channels).long()
        sums = cls(counts, counts, totals, torch.zeros(channels, channels).long(), basis)
        for start in range(0, len(targets), _ROWS):
            rows = slice(start, start + _ROWS)
            sums += cls._of_few(
                torch.cat([part[rows].cpu().double() for part in points], dim=1),
                targets[rows].cpu().long(),
                torch.ones(len(targets[rows])) if shares is None else shares[rows].cpu(),
                sums,
            )
        return sums

    @classmethod
    def _of_few(cls, values: Tensor, classes: Tensor, shares: Tensor, like: "Sums") -> "Sums":
        """Sum over so few pixels that a copy of their features in float64 does not matter."""
        labelled = classes != IGNORE_INDEX
        grid, classes, shares = (values[labelled] / STEP).round(), classes[labelled], shares[labelled]
        if not bool((grid.square().sum(dim=0) < _LARGEST).all()):  # NaN is not smaller either.
            raise UsageError(
                f"features have to be finite and small enough to be summed exactly, got {values.abs().max():g}"
            )
        steps = (shares.double() * 2**32).round().long()
        return cls(
            torch.bincount(classes, minlength=len(like.counts)),
            torch.zeros_like(like.shares).index_add_(0, classes, steps),
            torch.zeros_like(like.totals).index_add_(0, classes, grid.long()),
            _gram(grid),
            like.basis,
        )

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over the pixels of both."""
        return self._with(other, 1)

    def __sub__(self, other: "Sums") -> "Sums":
        """The sums without the pixels of the other: the very bits of sums that never had them.

        Raises:
            UsageError: The other has pixels that are not in these sums.
        """
        return self._with(other, -1)

    def _with(self, other: "Sums", sign: int) -> "Sums":
        if self.basis != other.basis or self.totals.shape != other.totals.shape:
            raise UsageError(
                f"sums of other features or classes cannot be added: {_described(self)}, and {_described(other)}",
                hint="take both with the same encoder, strides, scales and class table",
            )
        mine, theirs = self._tensors(), other._tensors()
        return Sums(**{name: mine[name] + sign * theirs[name] for name in mine}, basis=self.basis)._checked()

    def _tensors(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "shares": self.shares, "totals": self.totals, "gram": self.gram}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a file, whole or not at all; equal sums give equal bytes.

        Raises:
            ModelFileError: The disk does not take it.
            UsageError: There is a file already and `overwrite` is False.
        """
        document = {"basis": self.basis, "step": STEP}
        write_tensor_file(path, _KIND, _VERSION, document, self._tensors(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "Sums":
        """Read what `save` wrote.

        Raises:
            ModelFileError: The file cannot be read, is no such file, or is damaged.
        """
        document, tensors = read_tensor_file(path, _KIND, _VERSION)
        try:
            if document["step"] != STEP:
                raise ModelFileError(f"{show_path(path)} holds sums in steps of {document['step']}, not {STEP}")
            sums = cls(**tensors, basis=document["basis"])
            classes, channels = sums.totals.shape
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{show_path(path)} holds no sums: {error}") from None
        shapes = {"counts": (classes,), "shares": (classes,), "gram": (channels, channels)}
        for name, tensor in tensors.items():
            if tensor.dtype != torch.int64 or tensor.shape != shapes.get(name, tensor.shape):
                raise ModelFileError(f"{show_path(path)}: {name} is {tensor.dtype} {tuple(tensor.shape)}")
        return sums._checked()

    def _checked(self) -> "Sums":
        """These sums, if there are such pixels and the next addition cannot overflow."""
        squares = self.gram.diagonal()
        if bool((self.counts < 0).any() | (self.shares < 0).any() | (squares < 0).any()):
            raise UsageError("pixels were subtracted that had not been added", hint="subtract what was added")
        if bool((squares >= _LARGEST).any()):
            raise UsageError("the features are too large, or too many, to be summed exactly")
        return self


def _gram(grid: Tensor) -> Tensor:
    """Sum the products of P x K whole numbers: K x K int64, exact.

    The product of two matrices of floats is the fast one; as long as every sum stays within 53 bits, it rounds
    nothing.
    """
    if not len(grid) or float(grid.square().sum(dim=0).max()) <= _EXACT:
        table = grid.numpy()
        return torch.from_numpy(table.T @ table).long()  # NumPy computes half of a matrix that is symmetric.
    if len(grid) == 1:
        return torch.outer(grid[0].long(), grid[0].long())
    middle = len(grid) // 2
    return _gram(grid[:middle]) + _gram(grid[middle:])


def _described(sums: Sums) -> str:
    classes, channels = sums.totals.shape
    return f"{classes} classes of {channels} channels ({sums.basis[:8] or 'no basis'})"


def basis_of(model: FCN) -> str:
    """Name what sums of a model's features are of: a digest of encoder, output stride and class table."""
    return entry_key(
        {
            "encoder": model.encoder.digest(),
            "output_stride": model.decoder.output_stride,
            "class_table": model.class_table.to_json(),
        }
    )


def model_sums(model: FCN, points: Points, targets: Tensor, shares: Tensor | None = None) -> Sums:
    """Sum over pixels that were read with a model's encoder and output grid: `Sums.of` for its classes."""
    classes = model.class_table.num_classes
    return Sums.of(points, targets, shares, num_classes=classes, basis=basis_of(model))


def label_sums(model: FCN, features: Features, mask: Mask, *, count: int = 0) -> Sums:
    """Sum over the labelled pixels of an image, or of strokes on it.

    Args:
        model: Whose encoder gave the features; its decoder's weights do not matter.
        features: Of this one image, from `FCN.features`: computed once, however often its labels change.
        mask: H x W class indices, 255 where a pixel has no label.
        count: How many pixels to draw (`fullyconv.draws`), always the same of the same mask; 0 for all.
    """
    target = torch.from_numpy(mask.copy()).flatten()
    draws = count or len(target)  # All labelled pixels, where that is as many as there are.
    pixels, shares = draw_pixels(target, draws, torch.Generator().manual_seed(0))
    size = (mask.shape[0], mask.shape[1])
    # Rounded as in the feature cache, so that the same pixels add the same there and here.
    maps = [to_half(values).cpu().float() for values in features]
    points = read_points(
        maps, model.encoder.specs, model.decoder.output_stride, pixels // size[1], pixels % size[1], size
    )
    return model_sums(model, [to_half(values) for values in points], target[pixels], shares)


class LinearFit(NamedTuple):
    """A linear decoder's numbers, float64: logits are `weights @ features + biases`.

    Attributes:
        weights: C x K.
        biases: C.
        means: K, the mean of the features over all pixels.
        variances: K, their variance.
    """

    weights: Tensor
    biases: Tensor
    means: Tensor
    variances: Tensor


def solve(sums: Sums, *, shrinkage: float | None = None, prior: float = PRIOR) -> LinearFit:
    """Solve linear discriminant analysis.

    With its mean m, its share p of the pixels and the covariance S within all classes, the logit of a class is
    `x S^-1 m - m S^-1 m / 2 + prior * log p`, less the mean over the classes.

    Args:
        sums: Over at least one pixel.
        shrinkage: In 0..1: by how much the correlations within the classes are taken for smaller than measured;
            K / (K + P) of K channels and P pixels if None, as if K pixels had been without any. Where that leaves
            S singular, ten times as much is tried, and so on.
        prior: Exponent of the class shares: 0 takes all classes for equally frequent, 1 for as frequent as they
            are, more lifts the frequent ones.

    Raises:
        UsageError: There is no pixel, or the shrinkage is out of range.
    """
    channels = len(sums.gram)
    if shrinkage is None:
        shrinkage = channels / (channels + int(sums.counts.sum()))
    if not 0 <= shrinkage <= 1:
        raise UsageError(f"shrinkage has to lie in 0..1, got {shrinkage:g}")
    present = sums.counts > 0
    counts = sums.counts[present].double()
    if not len(counts):
        raise UsageError("there is no labelled pixel to learn from")
    centre, totals, gram = _centred(sums)
    number = counts.sum()
    means = totals[present].double() / counts[:, None]
    offset = totals.sum(dim=0).double() / number
    within = (gram.double() - means.T @ (means * counts[:, None])) / number
    # Each value is known to half a step, so no variance is taken for smaller than that of such a rounding.
    deviations = within.diagonal().clamp(min=1 / 12).sqrt()
    factor = _cholesky(within / deviations / deviations[:, None], shrinkage)
    directions = torch.cholesky_solve((means / deviations).T, factor).T / deviations
    shares = sums.shares[present].double().clamp(min=1)
    biases = (
        prior * (shares / shares.sum()).log() - (directions * means).sum(dim=1) / 2 - directions @ centre.double()
    )
    weights = torch.zeros(sums.totals.shape, dtype=torch.float64)
    weights[present] = (directions - directions.mean(dim=0)) / STEP
    shifted = torch.full((len(present),), ABSENT, dtype=torch.float64)
    shifted[present] = biases - biases.mean()
    variances = gram.diagonal().double() / number - offset.square()
    return LinearFit(weights, shifted, (centre + offset) * STEP, variances.clamp(min=0) * STEP**2)


def fit_decoder(decoder: Decoder, sums: Sums, *, balance: float = 0.0) -> None:
    """Solve a decoder from sums over the features that it reads.

    Args:
        decoder: The practical one without hidden layer.
        sums: Over its features and classes.
        balance: 0..1, by how much to lift rare classes: at 1 all count as equally frequent.

    Raises:
        UsageError: Another decoder, or sums of other features or classes.
    """
    if not isinstance(decoder, PracticalDecoder) or decoder.hidden:
        raise UsageError(
            "the closed form needs the practical decoder without hidden layer", hint="give --hidden 0"
        )
    expected = (decoder.num_classes, sum(spec.channels for spec in decoder.specs))
    if sums.totals.shape != expected:
        raise UsageError(
            f"expected sums of {expected[0]} classes of {expected[1]} channels, got {_described(sums)}"
        )
    decoder.set_linear(*solve(sums, prior=PRIOR * (1 - balance)))


def _centred(sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Move the origin of the features to their mean, rounded: there, sums of squares lose nothing to cancellation.

    In whole numbers: what overflows on the way comes back.
    """
    number, totals = sums.counts.sum(), sums.totals.sum(dim=0)
    centre = torch.div(totals, number, rounding_mode="floor")
    gram = sums.gram - torch.outer(centre, totals) - torch.outer(totals, centre)
    gram += number * torch.outer(centre, centre)
    return centre, sums.totals - sums.counts[:, None] * centre, gram


def _cholesky(correlations: Tensor, shrinkage: float) -> Tensor:
    """Factor shrunken correlations; shrink them more as long as they are singular."""
    while True:
        shrunken = (1 - shrinkage) * correlations
        shrunken.diagonal().fill_(1)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(shrunken)
        if not failed:
            return factor
        shrinkage = min(1.0, max(10 * shrinkage, 1e-12))
