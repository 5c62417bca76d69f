"""Whether tiles give the mask of the whole image: shown on an image of the user's own."""

from dataclasses import dataclass

import torch

from fullyconv.errors import UsageError
from fullyconv.predict import Predictor
from fullyconv.shapes import Image, Size
from fullyconv.tiles import Halo, cut, share_computed
from fullyconv.upsample import pixel_logits, predict_mask

__all__ = ["CLOSE", "TilingReport", "verify_tiling"]

CLOSE = 2e-6
"""Of the range of all logits: where the two best ones lie closer, rounding may decide between them."""

LEAST = 3
"""Tiles on each axis, so that one has neighbours on all sides."""


@dataclass(frozen=True)
class TilingReport:
    """What a comparison of tiles with the whole image found.

    Attributes:
        size: (height, width) of the image in pixels.
        tiles: How many there are.
        sides: (height, width) of a tile's area in pixels.
        halo: How far a pixel's logits reach.
        computed: Pixels that the network saw for each pixel of the image.
        different: Pixels whose class differs.
        close: Those of them whose two best logits lie closer than `CLOSE` of the range.
    """

    size: Size
    tiles: int
    sides: Size
    halo: Halo
    computed: float
    different: int
    close: int

    @property
    def exact(self) -> bool:
        """Whether no pixel differs but where rounding decides."""
        return self.different == self.close

    def __str__(self) -> str:
        total = self.size[0] * self.size[1]
        found = f"{self.different} of {total} pixels differ"
        if self.different:
            found += f", {self.close} of them where the two best logits are equal within rounding"
        return (
            f"{self.tiles} tiles of {self.sides[0]} x {self.sides[1]} px, "
            f"halo {self.halo.before} px above and left, {self.halo.after} px below and right, "
            f"{self.computed - 1:.0%} recomputed: {found}"
        )


@torch.no_grad()
def verify_tiling(predictor: Predictor, image: Image) -> TilingReport:
    """Predict an image in one piece and in tiles, and compare every pixel.

    The tiles are those of `predictor.tile`, else a third of the image on each axis, rounded down to the grid.

    Args:
        predictor: Any.
        image: H x W x 3 uint8 RGB.

    Raises:
        UsageError: There are fewer than 3 x 3 tiles, or the window of one covers the whole image: nothing would be
            shown.
    """
    size = image.shape[:2]
    grid, halo = predictor.tile_grid, predictor.halo
    third = [max(side // LEAST // grid * grid, grid) for side in size]
    asked = (predictor.tile, predictor.tile) if predictor.tile else (third[0], third[1])
    tiles = cut(size, asked, halo, grid)
    rows, columns = (len({getattr(tile.area, name) for tile in tiles}) for name in ("top", "left"))
    shown = f"{size[0]} x {size[1]} px"
    if min(rows, columns) < LEAST:
        raise UsageError(
            f"expected at least {LEAST} x {LEAST} tiles, an image of {shown} has {rows} x {columns}",
            hint=f"take a larger image, or a smaller --tile (down to {grid})",
        )
    if any(tile.window.size == size for tile in tiles):
        raise UsageError(
            f"a tile and its halo of {halo.before} + {halo.after} px cover the whole image of {shown}: "
            "nothing would be shown",
            hint="take a larger image, or a smaller --tile",
        )
    stride = predictor.output_stride
    logits = predictor.logits(image)
    whole = predict_mask(logits, stride, size)[0].cpu()
    different = torch.zeros(size, dtype=torch.bool)
    for tile in tiles:
        mask = torch.from_numpy(predictor.predict_tile(image[tile.window.slices], tile))
        different[tile.area.slices] = mask != whole[tile.area.slices]
    places = different.nonzero().T.to(logits.device)
    close = 0
    if places.shape[1]:
        best = pixel_logits(logits, stride, places[:1], places[1:])[0].topk(2).values
        close = int((best[:, 0] - best[:, 1] < CLOSE * (logits.max() - logits.min())).sum())
    sides = tiles[0].area.size
    return TilingReport(size, len(tiles), sides, halo, share_computed(tiles), int(different.sum()), close)
