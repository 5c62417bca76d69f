"""Whether tiles and rows give the mask of the whole image: shown on an image of the user's own."""

from dataclasses import dataclass

import numpy as np
import torch

from fullyconv.errors import UsageError
from fullyconv.predict import Predictor
from fullyconv.shapes import Mask, Pixels, Size
from fullyconv.tiles import Halo, cut, share_computed
from fullyconv.upsample import pixel_logits, predict_mask

__all__ = ["CLOSE", "Difference", "TilingReport", "verify_tiling"]

CLOSE = 2e-6
"""Of the range of all logits: where the two best ones lie closer, rounding may decide between them."""

LEAST = 3
"""Tiles on each axis, so that one has neighbours on all sides."""


@dataclass(frozen=True)
class Difference:
    """Pixels whose class is not that of the whole image.

    Attributes:
        different: How many.
        close: Those of them whose two best logits lie closer than `CLOSE` of the range.
    """

    different: int
    close: int

    @property
    def exact(self) -> bool:
        """Whether no pixel differs but where rounding decides."""
        return self.different == self.close


@dataclass(frozen=True)
class TilingReport:
    """What a comparison of tiles, and of rows, with the whole image found.

    Attributes:
        size: (height, width) of the image in pixels.
        tiles: How many there are.
        sides: (height, width) of a tile's area in pixels.
        halo: How far a pixel's logits reach.
        computed: Pixels that the network saw for each pixel of the image.
        found: What differs in tiles.
        rows: How many rows were computed at a time; 0 where the network does not work by rows.
        found_by_rows: What differs by rows.
    """

    size: Size
    tiles: int
    sides: Size
    halo: Halo
    computed: float
    found: Difference
    rows: int
    found_by_rows: Difference

    @property
    def exact(self) -> bool:
        """Whether no pixel differs but where rounding decides."""
        return self.found.exact and self.found_by_rows.exact

    def __str__(self) -> str:
        by_rows = f"{self.rows} rows at a time: {self._words(self.found_by_rows)}" if self.rows else "not by rows"
        return (
            f"{self.tiles} tiles of {self.sides[0]} x {self.sides[1]} px, "
            f"halo {self.halo.before} px above and left, {self.halo.after} px below and right, "
            f"{self.computed - 1:.0%} recomputed: {self._words(self.found)}; {by_rows}"
        )

    def _words(self, found: Difference) -> str:
        words = f"{found.different} of {self.size[0] * self.size[1]} pixels differ"
        if found.different:
            words += f", {found.close} of them where the two best logits are equal within rounding"
        return words


@torch.no_grad()
def verify_tiling(predictor: Predictor, image: Pixels) -> TilingReport:
    """Predict an image in one piece, in tiles and by rows, and compare every pixel.

    The tiles are those of `predictor.tile`, else a third of the image on each axis, rounded down to the grid. Rows
    are computed as many at a time as a tile is high.

    Args:
        predictor: Any.
        image: H x W x 3 uint8 RGB.

    Raises:
        UsageError: There are fewer than 3 x 3 tiles, or the window of one covers the whole image: nothing would be
            shown.
    """
    size = image.shape[:2]
    grid, halo = predictor.tile_grid, predictor.halo
    if halo is None:
        raise UsageError(
            "this model may see the whole image: tiles of it are blended and differ",
            hint="leave --verify-tiling out",
        )
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
    logits = predictor.logits(image)
    whole = predict_mask(logits, predictor.output_stride, size)[0].cpu().numpy()

    def difference(mask: Mask) -> Difference:
        places = torch.from_numpy(np.stack(np.nonzero(mask != whole))).to(logits.device)
        if not places.shape[1]:
            return Difference(0, 0)
        best = pixel_logits(logits, predictor.output_stride, places[:1], places[1:])[0].topk(2).values
        close = best[:, 0] - best[:, 1] < CLOSE * (logits.max() - logits.min())
        return Difference(places.shape[1], int(close.sum()))

    mask = np.empty_like(whole)
    for tile in tiles:
        mask[tile.area.slices] = predictor.predict_tile(image[tile.window.slices], tile)
    in_tiles, sides = difference(mask), tiles[0].area.size
    rows = sides[0] if predictor.row_stream(size) is not None else 0
    if rows:
        for area, part in predictor.mask_parts(size, lambda box: image[box.slices], rows):
            mask[area.slices] = part
    by_rows = difference(mask)
    return TilingReport(size, len(tiles), sides, halo, share_computed(tiles), in_tiles, rows, by_rows)
