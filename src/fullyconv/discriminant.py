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
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.feature_cache import entry_key, to_half
from fullyconv.model import FCN
from fullyconv.shapes import Image, Mask, Points
from fullyconv.tensor_file import read_tensor_file, write_tensor_file

__all__ = ["STEP", "LinearFit", "Sums", "basis_of", "image_sums", "solve"]

STEP = 2.0**-14
"""Features are summed in these steps. Half-precision values from 1/16 up are multiples of it; of smaller ones at
most half a step, 0.00003, is rounded away."""

ABSENT = -100.0
"""The bias of a class without a pixel. The logits of the others have the mean 0, so it never wins."""

PRIOR, BALANCED_PRIOR = 1.0, 0.5

_EXACT = 2.0**52
"""Sums of squares up to here keep every partial sum of products within the 53 bits of a float64."""

_LARGEST = 2**62
_ROWS = 4096
_KIND = "fullyconv_sums"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Sums:
    """What linear discriminant analysis needs to know of labelled pixels: `a + b`, `a - b`, save and load.

    Attributes:
        counts: C int64, pixels of each class.
        totals: C x K int64, the sum of their features in steps of `STEP`.
        gram: K x K int64, the sum over all pixels of the products of two features, in steps of `STEP ** 2`.
        basis: Which features and classes these are (`basis_of`); only sums of the same can be added.
    """

    counts: Tensor
    totals: Tensor
    gram: Tensor
    basis: str = ""

    @classmethod
    def of(cls, points: Points, targets: Tensor, num_classes: int, basis: str = "") -> "Sums":
        """Sum over pixels.

        Args:
            points: P x K float for each spec.
            targets: P class indices; 255 is left out.
            num_classes: C.
            basis: What the sums are of.

        Raises:
            UsageError: Features that are not finite, or too large to be summed exactly.
        """
        channels = sum(values.shape[1] for values in points)
        counts = torch.zeros(num_classes, dtype=torch.int64)
        totals = torch.zeros(num_classes, channels, dtype=torch.int64)
        gram = torch.zeros(channels, channels, dtype=torch.int64)
        for start in range(0, len(targets), _ROWS):
            classes = targets[start : start + _ROWS].cpu().long()
            labelled = classes != IGNORE_INDEX
            classes = classes[labelled]
            values = torch.cat([part[start : start + _ROWS].cpu().double() for part in points], dim=1)[labelled]
            grid = (values / STEP).round()
            if not bool((grid.abs() * grid.abs() < _LARGEST).all()):
                raise UsageError(f"features have to be finite and below {_LARGEST**0.5 * STEP:g}")
            counts += torch.bincount(classes, minlength=num_classes)
            totals.index_add_(0, classes, grid.long())
            gram += _gram(grid)
        return cls(counts, totals, gram, basis)._checked()

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over the pixels of both."""
        self._check_same(other)
        return Sums(
            self.counts + other.counts, self.totals + other.totals, self.gram + other.gram, self.basis
        )._checked()

    def __sub__(self, other: "Sums") -> "Sums":
        """The sums without the pixels of the other: the very bits of sums that never had them.

        Raises:
            UsageError: The other has pixels that are not in these sums.
        """
        self._check_same(other)
        return Sums(
            self.counts - other.counts, self.totals - other.totals, self.gram - other.gram, self.basis
        )._checked()

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a file, whole or not at all; equal sums give equal bytes.

        Raises:
            ModelFileError: The disk does not take it.
            UsageError: There is a file already and `overwrite` is False.
        """
        tensors = {"counts": self.counts, "totals": self.totals, "gram": self.gram}
        write_tensor_file(path, _KIND, _VERSION, {"basis": self.basis, "step": STEP}, tensors, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "Sums":
        """Read what `save` wrote.

        Raises:
            ModelFileError: The file cannot be read, is no such file, or is damaged.
        """
        document, tensors = read_tensor_file(path, _KIND, _VERSION)
        if set(tensors) != {"counts", "totals", "gram"} or document.get("step") != STEP:
            raise ModelFileError(f"{path} holds no sums in steps of {STEP:g}")
        return cls(tensors["counts"], tensors["totals"], tensors["gram"], document["basis"])._checked()

    def _check_same(self, other: "Sums") -> None:
        if self.basis != other.basis or self.totals.shape != other.totals.shape:
            raise UsageError(
                f"sums of other features or classes cannot be added: {_described(self)}, and {_described(other)}",
                hint="take both with the same encoder, strides, scales and class table",
            )

    def _checked(self) -> "Sums":
        """These sums, if there are such pixels and the next addition cannot overflow."""
        squares = self.gram.diagonal()
        if bool((self.counts < 0).any()) or bool((squares < 0).any()):
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


@torch.no_grad()
def image_sums(model: FCN, image: Image, mask: Mask) -> Sums:
    """Sum over the labelled pixels of an image, or of strokes on it.

    Args:
        model: Whose encoder and output grid are used; its decoder's weights do not matter.
        image: H x W x 3 uint8.
        mask: H x W class indices, 255 where a pixel has no label.
    """
    target = torch.from_numpy(mask.copy())
    rows, columns = (target != IGNORE_INDEX).nonzero(as_tuple=True)
    device = model.encoder.mean.device
    maps = model.encoder(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device))
    # Rounded as in the feature cache, so that the same pixels add the same there and here.
    maps = [to_half(values).cpu().float().contiguous() for values in maps]
    points = read_points(
        maps, model.encoder.specs, model.decoder.output_stride, rows, columns, (mask.shape[0], mask.shape[1])
    )
    halves = [to_half(values) for values in points]
    return Sums.of(halves, target[rows, columns], model.class_table.num_classes, basis_of(model))


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


def solve(sums: Sums, *, shrinkage: float = 1e-3, prior: float = 1.0) -> LinearFit:
    """Solve linear discriminant analysis.

    With its mean m, its share p of the pixels and the covariance S within all classes, the logit of a class is
    `x S^-1 m - m S^-1 m / 2 + prior * log p`, less the mean over the classes.

    Args:
        sums: Over at least one pixel.
        shrinkage: In 0..1: by how much the correlations within the classes are taken for smaller than measured.
            Where that leaves S singular, ten times as much is tried, and so on.
        prior: Exponent of the class shares: 1 counts a class by its pixels, 0 takes all classes for equally
            frequent.

    Raises:
        UsageError: There is no pixel, or the shrinkage is out of range.
    """
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
    biases = prior * (counts / number).log() - (directions * means).sum(dim=1) / 2 - directions @ centre.double()
    weights = torch.zeros(sums.totals.shape, dtype=torch.float64)
    weights[present] = (directions - directions.mean(dim=0)) / STEP
    shifted = torch.full((len(present),), ABSENT, dtype=torch.float64)
    shifted[present] = biases - biases.mean()
    variances = gram.diagonal().double() / number - offset.square()
    return LinearFit(weights, shifted, (centre + offset) * STEP, variances.clamp(min=0) * STEP**2)


def fit_decoder(decoder: Decoder, sums: Sums, *, balance: bool = False) -> None:
    """Solve a decoder from sums over the features that it reads.

    Args:
        decoder: The practical one without hidden layer.
        sums: Over its features and classes.
        balance: Take rare classes for more frequent than they are.

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
    decoder.set_linear(*solve(sums, prior=BALANCED_PRIOR if balance else PRIOR))


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
        factor, failed = torch.linalg.cholesky_ex(shrunken)
        if not failed:
            return factor
        shrinkage = min(1.0, max(10 * shrinkage, 1e-12))
