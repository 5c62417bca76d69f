"""Images that are open on the page: on disk with their masks, predicted part by part while they are looked at.

An image is found by its id alone, 128 random bits that only the sender knows. Where they take too much room, those
go that were not asked for longest; and so does what nobody asked for in a while.
"""

import asyncio
import logging
import math
import secrets
import shutil
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import DataError, FullyConvError
from fullyconv.image_form import ImageForm, shown
from fullyconv.memory import give_back_freed
from fullyconv.predict import FREE_PIXELS, Predictor
from fullyconv.serve.context import Context, UnknownError
from fullyconv.serve.pyramid import TILE, Pyramid, blocks, level_sizes, reserved
from fullyconv.serve.received import GoneError, TooLargeError, nameless
from fullyconv.serve.work import BusyError
from fullyconv.shapes import Mask, Pixels, Size
from fullyconv.sources import open_image, read_header
from fullyconv.tiles import Box

__all__ = ["MOST_OPEN", "Opened", "OpenedImage"]

MOST_OPEN = 1000
"""Images that are open at a time, however small."""


@dataclass(eq=False)
class OpenedImage:
    """An image that is open.

    Attributes:
        id: By which it is found.
        name: What the sender calls it.
        model: The name of the model.
        table: The model's classes.
        size: (height, width) in pixels.
        folder: Where it lies.
        bytes: That it takes on disk.
        asked: When it was asked for last, by a clock that only goes on.
        image: H x W x 3 uint8 RGB, as it is seen.
        mask: H x W uint8 class indices.
        confidence: H x W uint8, 0..255 for probabilities 0..1 of these classes.
        values: What the model reads, where that is not `image`; gone after the prediction.
        rows: That are predicted, from the top.
        pixels: That are predicted.
        counts: Of the predicted pixels, by class index.
        revision: Goes up by one with each part that is predicted.
        error: Why it could not be predicted.
        dropped: It is gone; whoever still works on it may stop.
        task: Predicts it.
    """

    id: str
    name: str
    model: str
    table: ClassTable
    size: Size
    folder: Path
    bytes: int
    asked: float
    image: Pyramid = field(init=False)
    mask: Pyramid = field(init=False)
    confidence: Pyramid = field(init=False)
    values: npt.NDArray[np.float32] | None = None
    rows: int = 0
    pixels: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    revision: int = 0
    error: str | None = None
    dropped: bool = False
    task: "asyncio.Task[None] | None" = None

    @property
    def done(self) -> bool:
        """Whether all of it is predicted."""
        return self.pixels == math.prod(self.size)

    def decode(self, path: Path, form: ImageForm) -> None:
        """Copy the pixels of a file to disk, and halves of them, unless it is dropped meanwhile."""
        self.folder.mkdir(mode=0o700)
        self.image = Pyramid(self.folder / "image", self.size, 3)
        self.mask = Pyramid(self.folder / "mask", self.size)
        self.confidence = Pyramid(self.folder / "confidence", self.size)
        if not form.is_usual:
            shape = (*self.size, form.channels)
            reserved(self.folder / "values", 4 * math.prod(shape))
            self.values = np.memmap(self.folder / "values", np.float32, "r+", shape=shape)
        self._copy(path, form)
        give_back_freed()  # PNG and JPEG are in memory whole until here
        for level in range(1, len(self.image.sizes)):
            if not self.dropped:
                self.image.halve(level)

    def _copy(self, path: Path, form: ImageForm) -> None:
        whole = self.image.level(0)
        with open_image(path, form) as source:
            for box in blocks(self.size):
                if self.dropped:  # no error: it would be taken for one of the file
                    return
                pixels = source.read(box)
                if self.values is not None:
                    self.values[box.slices] = pixels
                whole[box.slices] = shown(pixels)

    def read(self, box: Box) -> Pixels:
        """What the model reads of a part."""
        held = self.image.level(0) if self.values is None else self.values
        return np.array(held[box.slices])

    def take(self, box: Box, mask: Mask, confidence: npt.NDArray[np.float32]) -> None:
        """Keep what was predicted of a part: the next one below, or right of, the part before."""
        self.mask.write_all(box, mask)
        self.confidence.write_all(box, np.rint(confidence * 255).astype(np.uint8))
        self.counts += np.bincount(mask.ravel(), minlength=256)
        self.pixels += mask.size
        if box.right == self.size[1]:
            self.rows = box.bottom
        self.revision += 1

    def tile(self, layer: str, level: int, column: int, row: int) -> npt.NDArray[np.uint8] | None:
        """A tile of a layer; the mask is 255 and the confidence 0 where nothing is predicted yet."""
        pyramid = {"image": self.image, "mask": self.mask, "confidence": self.confidence}.get(layer)
        if pyramid is None or not 0 <= level < len(pyramid.sizes):
            return None
        done = -(-self.rows // 2**level) - row * TILE  # before it is read: what is written meanwhile is left out
        part = pyramid.tile(level, column, row)
        if part is not None and layer != "image":
            part[max(done, 0) :] = IGNORE_INDEX if layer == "mask" else 0
        return part

    def state(self) -> dict[str, Any]:
        """What there is to know, as JSON values."""
        classes = [
            {
                "index": index,
                "name": entry.name,
                "value": entry.value,
                "color": list(entry.color),
                "pixels": int(self.counts[index]),
                "share": int(self.counts[index]) / max(self.pixels, 1),
            }
            for index, entry in enumerate(self.table.classes)
        ]
        return {
            "id": self.id,
            "name": self.name,
            "model": self.model,
            "height": self.size[0],
            "width": self.size[1],
            "levels": len(self.image.sizes),
            "tile": TILE,
            "classes": classes,
            "done": self.done,
            "share": self.pixels / math.prod(self.size),
            "rows": self.rows,
            "revision": self.revision,
            "error": self.error,
        }


class Opened:
    """All images that are open.

    Args:
        context: Models, limits and the folder for files.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._images: dict[str, OpenedImage] = {}
        self._decoding = asyncio.Lock()
        self._small = asyncio.Lock()
        self._sweep: asyncio.TimerHandle | None = None

    async def open(self, path: Path, name: str, model: str) -> OpenedImage:
        """Decode an image, and begin to predict it.

        Args:
            path: Its file, which is not needed afterwards.
            name: What the sender calls it.
            model: The name of a model.

        Raises:
            TooLargeError: It has too many pixels, or takes more room than there is.
            DataError: It cannot be read.
            BusyError: The disk is full, or it had to make room for later ones while it was read.
        """
        work, predictor = self._context.work, self._context.work.models[model]
        form = predictor.image_form
        try:
            size = (await work.code(read_header, path, form)).size
            image = self._added(name, model, predictor, size)
            try:
                async with self._decoding:  # one thread is left for tiles
                    await work.code(_decode, image, path, form)
                if image.dropped:
                    raise GoneError
            except BaseException:
                self._drop(image)
                raise
        except DataError as error:
            raise DataError(nameless(error.message, path), hint=nameless(error.hint or "", path) or None) from None
        except GoneError:
            raise BusyError(
                "the image had to make room for later ones", hint="open fewer images at a time"
            ) from None
        image.task = asyncio.create_task(self._predict(image))
        return image

    def get(self, name: str) -> OpenedImage:
        """An image by its id.

        Raises:
            UnknownError: There is none, or none any more.
        """
        image = self._images.get(name)
        if image is None or not hasattr(image, "confidence"):
            raise UnknownError("there is no such image, or it was closed", hint="open it again")
        image.asked = time.monotonic()
        return image

    def close(self, name: str) -> None:
        """Forget an image by its id; it is predicted no further.

        Raises:
            UnknownError: There is none.
        """
        self._drop(self.get(name))

    async def close_all(self) -> None:
        """Forget all images, when the service ends."""
        tasks = [image.task for image in self._images.values() if image.task is not None]
        for image in list(self._images.values()):
            self._drop(image)
        if self._sweep is not None:
            self._sweep.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _added(self, name: str, model: str, predictor: Predictor, size: Size) -> OpenedImage:
        """Make room for an image, and an id; nobody knows it yet."""
        limits, pixels = self._context.limits, math.prod(size)
        if pixels > limits.opened_pixels:
            raise TooLargeError(f"expected at most {limits.opened_pixels} pixels, got {size[0]} x {size[1]}")
        needed = 5 * sum(math.prod(one) for one in level_sizes(size))
        if not predictor.image_form.is_usual:
            needed += 4 * pixels * predictor.image_form.channels
        if needed > limits.stored_bytes:
            raise TooLargeError(f"expected an image that takes at most {limits.stored_bytes} bytes, got {needed}")
        by_age = sorted(self._images.values(), key=lambda image: image.asked)
        taken = needed + sum(image.bytes for image in by_age)
        for image in by_age:
            if taken <= limits.stored_bytes and len(self._images) < MOST_OPEN:
                break
            taken -= image.bytes
            self._drop(image)
        key = secrets.token_hex(16)
        image = OpenedImage(
            key, name, model, predictor.class_table, size, self._context.folder / key, needed, time.monotonic()
        )
        self._images[key] = image
        self._sweep_later()
        return image

    def _drop(self, image: OpenedImage) -> None:
        image.dropped = True
        self._images.pop(image.id, None)
        if image.task is not None:
            image.task.cancel()
        # Whoever still reads it keeps what is mapped; the room is free afterwards.
        asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, image.folder, True)

    def _sweep_later(self) -> None:
        if self._sweep is None and self._images:
            pause = self._context.limits.stored_seconds / 4
            self._sweep = asyncio.get_running_loop().call_later(pause, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - self._context.limits.stored_seconds
        for image in [image for image in self._images.values() if image.asked < oldest]:
            self._drop(image)
        self._sweep_later()

    async def _predict(self, image: OpenedImage) -> None:
        work = self._context.work
        predictor = work.models[image.model]
        try:
            if math.prod(image.size) <= FREE_PIXELS:  # between the parts of large ones
                whole = Box(0, 0, *image.size)
                async with self._small:  # one at a time: others than the page wait for the models, too
                    found = await work.compute(predictor.predict_with_confidence, image.read(whole))
                await work.code(image.take, whole, *found)
            else:
                parts = work.parts(image.model, predictor.measured_parts(image.size, image.read, ["confidence"]))
                async with aclosing(parts):
                    async for box, mask, measured in parts:
                        await work.code(image.take, box, mask, measured["confidence"])
            work.measures.pixels.inc(image.pixels)
        except FullyConvError as error:
            image.error = str(error)
        except Exception:
            logging.getLogger(__name__).exception("an image could not be predicted")
            image.error = "the service failed; its log says how"
        if image.values is not None:
            image.values = None
            (image.folder / "values").unlink(missing_ok=True)


def _decode(image: OpenedImage, path: Path, form: ImageForm) -> None:
    try:
        image.decode(path, form)
    finally:
        if image.dropped:  # once more: files may have come while it was removed
            shutil.rmtree(image.folder, ignore_errors=True)
