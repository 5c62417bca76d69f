"""The predictor: an image of any size in, its mask out."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from fullyconv.device import choose_device, choose_precision
from fullyconv.errors import UsageError
from fullyconv.images import read_image, to_rgb
from fullyconv.memory import available_bytes, peak_bytes, shown_bytes
from fullyconv.model import FCN
from fullyconv.model_file import load_model
from fullyconv.shapes import Image, Logits, Mask, Size
from fullyconv.sizes import padded_size
from fullyconv.tiles import Box, Tile, cut, largest_sides
from fullyconv.upsample import predict_mask, upsample_logits

__all__ = ["Predictor"]

FREE_PIXELS = 1_000_000
"""Of an image that is never cut, whatever the memory: so much is there, or nothing works."""

PROBED_SIDE = 256
"""Of the window on which the memory is measured."""


class Predictor:
    """Predict masks with a model. What evaluates, serves or exports needs to know no more of a model than this.

    An image that needs more memory than allowed is cut into tiles, each computed with the halo that it needs: the
    mask is the same (`docs/concepts/exactness.md`).

    Args:
        model: A model, or the path of a model file.
        device: "auto", "cpu", "cuda" or "mps".
        precision: In which the encoder computes: "auto", "float32" or "bfloat16".
        memory: Bytes that the features of one window may take, by default half of what is available. Images up to
            a megapixel are never cut.
        tile: Side of the tiles in pixels, where it is not to be chosen by memory.

    Raises:
        ModelFileError: The file is not a model file, or is damaged.
    """

    def __init__(
        self,
        model: FCN | str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: int | None = None,
        tile: int | None = None,
    ) -> None:
        self.model = model if isinstance(model, FCN) else load_model(Path(model))
        self.device = choose_device(device)
        self.model.to(self.device).eval()
        self.model.encoder.set_precision(choose_precision(precision, self.device))
        self.class_table = self.model.class_table
        self.halo = self.model.halo
        self.tile_grid = self.model.tile_grid
        self.output_stride = self.model.decoder.output_stride
        self.memory = available_bytes() // 2 if memory is None else memory
        self.tile = tile

    def predict(self, image: str | Path | PillowImage.Image | Image) -> Mask:
        """Predict the class of every pixel.

        Args:
            image: A path, a PIL image, or an H x W x 3 uint8 RGB array.

        Returns:
            H x W uint8 class indices.

        Raises:
            UsageError: Not even the smallest tile fits into the memory that is allowed.
        """
        pixels = as_rgb(image)
        mask = np.empty(pixels.shape[:2], np.uint8)
        for tile in self.tiles(pixels.shape[:2]):
            mask[tile.area.slices] = self.predict_tile(pixels[tile.window.slices], tile)
        return mask

    def predict_tile(self, window: Image, tile: Tile) -> Mask:
        """Predict the mask of a tile's area from the pixels of its window."""
        logits, inner = self._around(self.logits(window), tile)
        mask = predict_mask(logits, self.output_stride, (inner.bottom, inner.right))[0]
        return mask[inner.slices].cpu().numpy()

    def probabilities(self, image: str | Path | PillowImage.Image | Image) -> npt.NDArray[np.float32]:
        """Predict the probability of every class at every pixel: C x H x W float32, sums of 1 over C."""
        pixels = as_rgb(image)
        size = pixels.shape[:2]
        probabilities = np.empty((self.class_table.num_classes, *size), np.float32)
        for tile in self.tiles(size):
            logits, inner = self._around(self.logits(pixels[tile.window.slices]), tile)
            logits = upsample_logits(logits, self.output_stride, (inner.bottom, inner.right))
            area = logits[0][(slice(None), *inner.slices)].softmax(dim=0)
            probabilities[(slice(None), *tile.area.slices)] = area.cpu().numpy()
        return probabilities

    def tiles(self, size: Size) -> list[Tile]:
        """Cut an image into what is computed at a time: all of it where the memory allows that."""
        sides = (self.tile, self.tile) if self.tile else self._affordable_sides(size)
        return cut(size, sides, self.halo, self.tile_grid)

    def _affordable_sides(self, size: Size) -> Size:
        if math.prod(size) <= FREE_PIXELS:
            return size
        pixels = int(self.memory / self.bytes_per_pixel)
        if math.prod(size) <= pixels:
            return size
        halo, grid = self.halo, self.tile_grid
        sides = largest_sides(size, pixels, halo, grid)
        if sides is None:
            least = (grid + halo.before + halo.after) ** 2 * self.bytes_per_pixel
            raise UsageError(
                f"{shown_bytes(self.memory)} of memory hold no tile of this model, "
                f"the smallest one takes {shown_bytes(int(least))}",
                hint="allow more with --memory",
            )
        return sides

    @cached_property
    def bytes_per_pixel(self) -> float:
        """Memory that features and logits take for each pixel of a window, measured on a small one."""
        side = padded_size((PROBED_SIDE, PROBED_SIDE), self.tile_grid)[0]
        window = np.zeros((side, side, 3), np.uint8)
        return peak_bytes(lambda: self.logits(window)) / side**2

    def _around(self, logits: Logits, tile: Tile) -> tuple[Logits, Box]:
        """Keep a window's logits that its area is interpolated from, and say where the area lies in them."""
        area, stride = tile.area.within(tile.window), self.output_stride
        top, left = max(area.top // stride - 1, 0), max(area.left // stride - 1, 0)
        bottom, right = -(-area.bottom // stride) + 1, -(-area.right // stride) + 1
        origin = Box(top * stride, left * stride, bottom * stride, right * stride)
        return logits[..., top:bottom, left:right], area.within(origin)

    @torch.no_grad()
    def logits(self, pixels: Image) -> Logits:
        """Compute 1 x C x h x w logits at the output stride, of an image or of a window in one piece."""
        images = torch.from_numpy(pixels.copy()).to(self.device).permute(2, 0, 1)[None]
        return self.model.logits(self.model.features(images), pixels.shape[:2])


def as_rgb(image: str | Path | PillowImage.Image | Image) -> Image:
    """Return an image given as a path, a PIL image or an array as an H x W x 3 uint8 RGB array.

    Raises:
        UsageError: An array of another shape or dtype.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, PillowImage.Image):
        return to_rgb(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(
            f"an image array has to be H x W x 3 uint8 RGB, got {' x '.join(map(str, image.shape))} {image.dtype}",
            hint="scale to 0..255 and convert with .astype('uint8')",
        )
    return image
