"""The predictor: an image of any size in, its mask out."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from torch import Tensor

from fullyconv.blending import blended
from fullyconv.device import choose_device, choose_precision, move
from fullyconv.errors import UsageError
from fullyconv.images import to_rgb
from fullyconv.margin import predict_margin
from fullyconv.memory import available_bytes, peak_bytes, shown_bytes
from fullyconv.model import FCN
from fullyconv.model_file import load_model
from fullyconv.row_rules import NotStreamableError
from fullyconv.shapes import Images, Logits, Mask, Pixels, Size
from fullyconv.sizes import padded_size
from fullyconv.stored import pillow_values
from fullyconv.streaming import RowStream
from fullyconv.tiles import Box, Halo, Tile, cut, largest_sides, overlapping
from fullyconv.upsample import predict_confidence, predict_mask, upsample_logits

__all__ = ["MEASURES", "Predictor"]

FREE_PIXELS = 1_000_000
"""Of an image that is always computed in one piece, whatever the memory: so much is there, or nothing works."""

WHOLE_PIXELS = 4_000_000
"""Of an image that is computed in one piece where the memory allows it. From there on rows are as fast."""

BAND_BYTES = 40_000_000
"""That a band of rows takes: the largest maps are 20 MB then, which are faster than larger ones."""

WAITING_ROWS = 68
"""Whose memory a band takes beside that of its own rows, while layers wait for each other: 10 to 67 were found, in
narrow images 80."""

LEAST_ROWS = 16
"""Of a band, where the memory allows them: fewer are slow."""

DEVICE_FACTOR = 16
"""So many times larger bands on a device that is not the processor."""

PROBED_SIDE = 256
"""Of the window on which the memory is measured."""

MEASURES: Mapping[str, Callable[[Logits, int, Size], Tensor]] = {
    "confidence": predict_confidence,
    "margin": predict_margin,
}
"""Of how sure a mask is: what computes them of logits, their output stride and the size of the image."""

Read = Callable[[Box], Pixels]
"""Gives the pixels of a part of an image, in the form that the model reads."""


class Predictor:
    """Predict masks with a model. What evaluates, serves or exports needs to know no more of a model than this.

    A large image is computed by bands of rows, each layer keeping the rows that the next band needs (`RowStream`).
    A network that does not work by rows is given tiles, each with the halo that it needs. The mask is the same
    (`docs/concepts/exactness.md`). Only where a network may see the whole image, and that is too large,
    overlapping tiles are blended (`is_exact`).

    Args:
        model: A model, or the path of a model file.
        device: "auto", "cpu", "cuda" or "mps".
        precision: In which the encoder computes: "auto", "float32" or "bfloat16".
        memory: Bytes that the features of one window may take, by default half of what is available. Images up to
            a megapixel are never cut.
        tile: Side of tiles in pixels: these instead of rows, for every image that is larger.

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
        self.image_form = self.model.encoder.image_form
        self.output_stride = self.model.decoder.output_stride
        self.memory = available_bytes() // 2 if memory is None else memory
        self.tile = tile
        self._streamed: tuple[object, RowStream | None] | None = None

    @property
    def training_record(self) -> Mapping[str, Any]:
        """What is known of the model's training."""
        return self.model.training_record

    def predict(self, image: str | Path | PillowImage.Image | Pixels) -> Mask:
        """Predict the class of every pixel.

        Args:
            image: A path, a PIL image, or an array: H x W x 3 uint8 RGB, or what `image_form.read` gives.

        Returns:
            H x W uint8 class indices.

        Raises:
            UsageError: Not even the smallest tile fits into the memory that is allowed.
        """
        return self.predict_measured(image, ())[0]

    def predict_batch(self, images: Sequence[Pixels]) -> list[Mask]:
        """Predict images of one size at once, which is faster where they are small.

        Args:
            images: Arrays as `pixels_of` gives them, all of the same height and width.

        Returns:
            For each what `predict` gives, bit for bit (`docs/concepts/exactness.md`).

        Raises:
            UsageError: They are of several sizes; or as `predict`.
        """
        sizes = {image.shape[:2] for image in images}
        if len(sizes) > 1:
            raise UsageError(f"a batch has to have images of one size, got {len(sizes)} sizes")
        if len(images) < 2 or not self._in_one_piece(images[0].shape[:2], len(images)):
            return [self.predict(image) for image in images]
        logits = self._batch_logits(np.stack(images))
        return list(predict_mask(logits, self.output_stride, images[0].shape[:2]).cpu().numpy())

    def _in_one_piece(self, size: Size, count: int) -> bool:
        """Whether so many images are computed at once: not where one of them would have to be cut."""
        pixels = count * math.prod(size)
        return self.tile is None and pixels <= WHOLE_PIXELS and pixels * self.bytes_per_pixel <= self.memory

    def probabilities(self, image: str | Path | PillowImage.Image | Pixels) -> npt.NDArray[np.float32]:
        """Predict the probability of every class at every pixel: C x H x W float32, sums of 1 over C."""
        pixels = self.pixels_of(image)
        size = pixels.shape[:2]
        probabilities = np.empty((self.class_table.num_classes, *size), np.float32)
        for area, logits, inner in self._logit_parts(size, lambda box: pixels[box.slices]):
            logits = upsample_logits(logits, self.output_stride, (inner.bottom, inner.right))
            part = logits[0][(slice(None), *inner.slices)].softmax(dim=0)
            probabilities[(slice(None), *area.slices)] = part.cpu().numpy()
        return probabilities

    def mask_parts(self, size: Size, read: Read, rows: int | None = None) -> Iterator[tuple[Box, Mask]]:
        """Predict an image that need not be in memory, part by part.

        Args:
            size: (height, width) of the image in pixels.
            read: Gives the pixels of a part.
            rows: How many rows to compute at a time, where it is not to be chosen by size and memory.

        Yields:
            Where a part lies and its class indices, from the top of the image to its bottom: rows of its full
            width, or tiles row by row.

        Raises:
            UsageError: Not even the smallest tile fits into the memory that is allowed.
        """
        for area, mask, _ in self.measured_parts(size, read, (), rows):
            yield area, mask

    def predict_with_confidence(
        self, image: str | Path | PillowImage.Image | Pixels
    ) -> tuple[Mask, npt.NDArray[np.float32]]:
        """Predict the class of every pixel, and its probability.

        Returns:
            H x W uint8 class indices; H x W float32, what `probabilities` says of these classes.
        """
        mask, measured = self.predict_measured(image, ["confidence"])
        return mask, measured["confidence"]

    def predict_with_margin(
        self, image: str | Path | PillowImage.Image | Pixels
    ) -> tuple[Mask, npt.NDArray[np.float32]]:
        """Predict the class of every pixel, and how far its logit is above the second best one.

        Returns:
            H x W uint8 class indices; H x W float32, 0 to infinity, from `fullyconv.margin.predict_margin`: the
            second best class has `exp(-margin)` times the probability of the best one.
        """
        mask, measured = self.predict_measured(image, ["margin"])
        return mask, measured["margin"]

    def predict_measured(
        self, image: str | Path | PillowImage.Image | Pixels, measures: Sequence[str]
    ) -> tuple[Mask, dict[str, npt.NDArray[np.float32]]]:
        """Predict the class of every pixel and measure how sure that is.

        Args:
            image: As for `predict`.
            measures: "confidence" or "margin", both, or none.

        Returns:
            H x W uint8 class indices; by measure, H x W float32.
        """
        pixels = self.pixels_of(image)
        size = pixels.shape[:2]
        mask, whole = np.empty(size, np.uint8), {name: np.empty(size, np.float32) for name in measures}
        for area, part, measured in self.measured_parts(size, lambda box: pixels[box.slices], measures):
            mask[area.slices] = part
            for name, values in measured.items():
                whole[name][area.slices] = values
        return mask, whole

    def measured_parts(
        self, size: Size, read: Read, measures: Sequence[str], rows: int | None = None
    ) -> Iterator[tuple[Box, Mask, dict[str, npt.NDArray[np.float32]]]]:
        """Predict an image as `mask_parts` does, and yield measures of each part (see `predict_measured`)."""
        for area, logits, inner in self._logit_parts(size, read, rows):
            form = self.output_stride, (inner.bottom, inner.right)
            mask = predict_mask(logits, *form)[0][inner.slices].cpu().numpy()
            measured = {name: MEASURES[name](logits, *form)[0][inner.slices].cpu().numpy() for name in measures}
            yield area, mask, measured

    def predict_tile(self, window: Pixels, tile: Tile) -> Mask:
        """Predict the mask of a tile's area from the pixels of its window."""
        logits, inner = self._around(self.logits(window), tile.area.within(tile.window))
        mask = predict_mask(logits, self.output_stride, (inner.bottom, inner.right))[0]
        return mask[inner.slices].cpu().numpy()

    def tiles(self, size: Size) -> list[Tile]:
        """Cut an image into what is computed at a time, where that is not rows: all of it if the memory allows.

        Raises:
            UsageError: Not even the smallest tile fits into the memory; or the network may see the whole image.
        """
        if self.halo is None:
            if self._blended_side(size) >= max(size):
                return [Tile(Box(0, 0, *size), Box(0, 0, *size))]
            raise UsageError("this model may see the whole image, so it cannot be cut into tiles exactly")
        sides = (self.tile, self.tile) if self.tile else self._affordable_sides(size)
        return cut(size, sides, self.halo, self.tile_grid)

    def row_stream(self, size: Size) -> RowStream | None:
        """The network, ready to run by rows of images of a size; None where it has a layer that does not.

        The last one is kept: a folder often has images of one size.
        """
        weights = [self.model.encoder.working_network(), *self.model.decoder.state_dict(keep_vars=True).values()]
        state = (size, [(id(held), getattr(held, "_version", 0)) for held in weights])
        if self._streamed is None or self._streamed[0] != state:
            image = self._images(self._blank((1, 1))[None]).expand(-1, -1, *size)
            try:
                self._streamed = state, RowStream(lambda images: self._logits(images), image)
            except NotStreamableError:
                self._streamed = state, None
        return self._streamed[1]

    def rows_at_a_time(self, stream: RowStream) -> int:
        """How many rows of an image are computed at a time; 0 where the memory does not even allow one."""
        height, width = stream.size
        row_bytes = width * self.bytes_per_pixel
        band_bytes = BAND_BYTES * (1 if self.device.type == "cpu" else DEVICE_FACTOR)
        wanted = min(max(int(band_bytes / row_bytes), LEAST_ROWS), height)
        affordable = int((self.memory - stream.kept_bytes(wanted)) / row_bytes) - WAITING_ROWS
        return max(min(wanted, affordable), 0)

    def _logit_parts(self, size: Size, read: Read, rows: int | None = None) -> Iterator[tuple[Box, Logits, Box]]:
        """Yield areas that cover an image, the logits that each is interpolated from, and its place in them."""
        whole = Box(0, 0, *size)
        stream = self.row_stream(size) if rows or self._by_rows(size) else None
        if stream is not None and (rows := rows or self.rows_at_a_time(stream)):
            yield from self._bands(stream, rows, read)
            return
        if self.halo is None and self._blended_side(size) < max(size):
            windows = overlapping(size, self._blended_side(size), self.tile_grid)
            parts = ((window, self.logits(read(window))) for window in windows)
            yield whole, blended(parts, size, self.output_stride), whole
            return
        for tile in self.tiles(size):
            yield tile.area, *self._around(self.logits(read(tile.window)), tile.area.within(tile.window))

    def _bands(self, stream: RowStream, rows: int, read: Read) -> Iterator[tuple[Box, Logits, Box]]:
        (height, width), stride = stream.size, self.output_stride
        boxes = (Box(top, 0, min(top + rows, height), width) for top in range(0, height, rows))
        held: list[Logits] = []
        first = done = cells = 0  # the first row of logits that is held; rows of pixels, and of logits, so far
        for part in stream.run(self._images(read(box)[None]) for box in boxes):
            held, cells = [torch.cat([*held, part], dim=-2)], cells + part.shape[-2]
            # Half of the pixels of the last row of logits lie between it and the next one.
            bottom = height if cells == stream.rows else min((cells - 1) * stride, height)
            if bottom > done:
                area, window = Box(done, 0, bottom, width), Box(first * stride, 0, cells * stride, width)
                yield area, *self._around(held[0], area.within(window))
                done, keep = bottom, max(bottom // stride - 1, 0)
                held, first = [held[0][..., keep - first :, :]], keep

    def is_exact(self, size: Size) -> bool:
        """Whether images of a size get the mask of the whole image, or one blended of overlapping tiles."""
        if self.halo is not None or self._blended_side(size) >= max(size):
            return True
        stream = self.row_stream(size) if self._by_rows(size) else None
        return stream is not None and self.rows_at_a_time(stream) > 0

    def _blended_side(self, size: Size) -> int:
        """Side of the tiles of a network that cannot be cut exactly: as large as the memory allows."""
        if self.tile:
            return self.tile
        if math.prod(size) <= FREE_PIXELS or math.prod(size) * self.bytes_per_pixel <= self.memory:
            return max(size)
        return int(math.sqrt(max(self.memory / self.bytes_per_pixel, FREE_PIXELS)))

    def _by_rows(self, size: Size) -> bool:
        """Whether an image is so large that it is not computed in one piece."""
        pixels = math.prod(size)
        fits = pixels <= WHOLE_PIXELS and pixels * self.bytes_per_pixel <= self.memory
        return self.tile is None and pixels > FREE_PIXELS and not fits

    def _affordable_sides(self, size: Size) -> Size:
        if math.prod(size) <= FREE_PIXELS:
            return size
        pixels = int(self.memory / self.bytes_per_pixel)
        if math.prod(size) <= pixels:
            return size
        halo, grid = self.halo or Halo(0, 0), self.tile_grid
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
        window = self._blank((side, side))
        return peak_bytes(lambda: self.logits(window)) / side**2

    def _blank(self, size: Size) -> Pixels:
        return np.zeros((*size, self.image_form.channels), np.uint8 if self.image_form.is_usual else np.float32)

    def pixels_of(self, image: str | Path | PillowImage.Image | Pixels) -> Pixels:
        """Return an image given as a path, a PIL image or an array in the form that the model reads.

        Raises:
            UsageError: An array of another shape or dtype.
            DataError: An image of another form.
        """
        form = self.image_form
        if isinstance(image, str | Path):
            return form.read(image)
        if isinstance(image, PillowImage.Image):
            return to_rgb(image) if form.is_usual else form.scaled(pillow_values(image))
        dtype = np.uint8 if form.is_usual else np.float32
        if image.ndim != 3 or image.shape[2] != form.channels or image.dtype != dtype or 0 in image.shape:
            wanted, way = "3 uint8 RGB", "scale to 0..255 and convert with .astype('uint8')"
            if not form.is_usual:
                wanted = f"{form.channels} float32 in 0..255"
                way = "turn stored values into that with Predictor.image_form.scaled"
            got = f"{' x '.join(map(str, image.shape))} {image.dtype}"
            raise UsageError(f"an image array has to be H x W x {wanted}, got {got}", hint=way)
        return image

    def _around(self, logits: Logits, area: Box) -> tuple[Logits, Box]:
        """Keep the logits that an area is interpolated from, and say where it lies in what they cover."""
        stride = self.output_stride
        top, left = max(area.top // stride - 1, 0), max(area.left // stride - 1, 0)
        bottom, right = -(-area.bottom // stride) + 1, -(-area.right // stride) + 1
        origin = Box(top * stride, left * stride, bottom * stride, right * stride)
        return logits[..., top:bottom, left:right], area.within(origin)

    def logits(self, pixels: Pixels) -> Logits:
        """Compute 1 x C x h x w logits at the output stride, of an image or of a window in one piece."""
        return self._batch_logits(pixels[None])

    @torch.no_grad()
    def _batch_logits(self, pixels: Pixels) -> Logits:
        """Compute N x C x h x w logits of N x H x W x K images."""
        return self._logits(self._images(pixels))

    def _logits(self, images: Images) -> Logits:
        return self.model.logits(self.model.features(images), (images.shape[-2], images.shape[-1]))

    def _images(self, pixels: Pixels) -> Images:
        """Put N x H x W x K pixels where the model is, as N x K x H x W."""
        return move(torch.from_numpy(pixels.copy()), self.device).permute(0, 3, 1, 2)
