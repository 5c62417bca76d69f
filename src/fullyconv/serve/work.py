"""Who waits for a prediction: a bounded queue, batches of images of one size, one thread that computes.

All of torch's threads work on one batch at a time; to compute two at once would be slower. Images are decoded and
answers encoded in threads of their own meanwhile. Large images take turns with small ones, a part at a time.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.device import set_threads
from fullyconv.errors import FullyConvError
from fullyconv.predict import FREE_PIXELS, Predictor
from fullyconv.serve.limits import Limits
from fullyconv.serve.measures import Measures
from fullyconv.shapes import Mask, Pixels

__all__ = ["BusyError", "Work"]

GATHER_SECONDS = 0.003
"""For which the first request after a pause waits for others of its size."""

MOST_AT_ONCE = 8
"""Images of a batch."""

CODERS = 2
"""Threads that decode images and encode answers."""

_Result = TypeVar("_Result")


class BusyError(FullyConvError):
    """The queue is full."""


@dataclass(eq=False)
class _Job:
    """An image that waits for its mask."""

    model: str
    pixels: Pixels
    mask: "asyncio.Future[Mask]"


class Work:
    """The models, and the queue before them. One event loop uses it, from `start` to `stop`.

    Args:
        models: Predictors by name.
        limits: How many requests may wait.
        measures: Where to count.
    """

    def __init__(self, models: Mapping[str, Predictor], limits: Limits, measures: Measures) -> None:
        self.models = models
        self.limits = limits
        self.measures = measures
        self.ready = False
        self._places = 0
        self._held = 0
        self._waiting: list[_Job] = []
        self._came = asyncio.Event()
        self._compute = ThreadPoolExecutor(1, "compute", initializer=set_threads, initargs=(None,))
        self._coders = ThreadPoolExecutor(CODERS, "code")
        self._large: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in models}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.create_task(self._run())
        self.ready = True

    async def stop(self) -> None:
        """Compute no more; what is being computed is waited for."""
        self.ready = False
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._compute.shutdown(cancel_futures=True)
        self._coders.shutdown(cancel_futures=True)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places in the queue, from when a request is there until its answer is made.

        Who sends slowly, or takes the answer slowly, holds none.

        Raises:
            BusyError: There is none.
        """
        self.expect_place()
        self._places += 1
        self.measures.waiting.set(self._places)
        try:
            yield
        finally:
            self._places -= 1
            self.measures.waiting.set(self._places)

    def expect_place(self) -> None:
        """See that there is a place, before the body of a request is read.

        Raises:
            BusyError: There is none, or the service ends.
        """
        if not self.ready:
            raise BusyError("the service ends", hint="try again in a second")
        if self._places >= self.limits.waiting:
            raise BusyError(f"{self._places} requests wait", hint="try again in a second")

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds a place."""
        return not self._places

    @contextmanager
    def hold(self, size: int = 0) -> Iterator[Callable[[int], None]]:
        """Hold room for what came with a request; one request may have more than all together may have.

        Args:
            size: Bytes; what the block gets is called with the number of further ones.

        Raises:
            BusyError: Others hold too much.
        """
        held = 0

        def more(size: int) -> None:
            nonlocal held
            if self._held > held and self._held + size > self.limits.held_bytes:
                raise BusyError(f"requests hold {self._held} bytes", hint="try again in a second")
            held += size
            self._held += size

        try:
            more(size)
            yield more
        finally:
            self._held -= held

    async def code(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Decode or encode something, beside what is computed."""
        return await asyncio.get_running_loop().run_in_executor(self._coders, function, *arguments)

    async def compute(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Compute something with the models in their thread."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *arguments)

    async def mask(self, model: str, pixels: Pixels) -> Mask:
        """Predict the mask of an image: what `Predictor.predict` gives, bit for bit.

        Whoever stops waiting (is cancelled) leaves the queue; a large image is not computed further.
        """
        if math.prod(pixels.shape[:2]) > FREE_PIXELS:
            return (await self._by_parts(model, pixels, []))[0]
        job = _Job(model, pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._came.set()
        try:
            mask = await job.mask
            self.measures.pixels.inc(mask.size)
            return mask
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def mask_with_confidence(self, model: str, pixels: Pixels) -> tuple[Mask, npt.NDArray[np.float32]]:
        """Predict what `Predictor.predict_with_confidence` gives, a large image by parts."""
        if math.prod(pixels.shape[:2]) <= FREE_PIXELS:
            found = await self.compute(self.models[model].predict_with_confidence, pixels)
            self.measures.pixels.inc(found[0].size)
            return found
        mask, measured = await self._by_parts(model, pixels, ["confidence"])
        return mask, measured["confidence"]

    async def _by_parts(
        self, model: str, pixels: Pixels, measures: Sequence[str]
    ) -> tuple[Mask, dict[str, npt.NDArray[np.float32]]]:
        size = pixels.shape[:2]
        mask = np.empty(size, np.uint8)
        whole = {name: np.empty(size, np.float32) for name in measures}
        parts = self.models[model].measured_parts(size, lambda box: pixels[box.slices], measures)
        async for box, part, measured in self.parts(model, parts):
            mask[box.slices] = part
            for name, values in measured.items():
                whole[name][box.slices] = values
        self.measures.pixels.inc(mask.size)
        return mask, whole

    async def parts(self, model: str, parts: Iterator[_Result]) -> AsyncGenerator[_Result, None]:
        """Compute what an iterator of a predictor yields, part by part, others taking their turns between.

        One large image of a model is computed at a time: each holds memory.
        """
        end = object()
        async with self._large[model]:
            while True:
                part = await self.compute(next, parts, end)
                if part is end:
                    return
                yield part

    async def _run(self) -> None:
        """Take batches out of the queue and compute them."""
        while True:
            await self._came.wait()
            if len(self._waiting) == 1:
                await asyncio.sleep(GATHER_SECONDS)
            batch = self._next()
            if not batch:
                self._came.clear()
                continue
            self.measures.batch.observe(len(batch))
            try:
                with self.measures.computing.time():
                    masks = await self.compute(self._predict, batch[0].model, [job.pixels for job in batch])
            except Exception as error:  # whatever it is, it is these requests' and not the service's
                for job in batch:
                    if not job.mask.done():
                        job.mask.set_exception(error)
                continue
            for job, mask in zip(batch, masks, strict=True):
                if not job.mask.done():
                    job.mask.set_result(mask)

    def _next(self) -> list[_Job]:
        """The request that waits longest, and others of the same model and size."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        form = first.model, first.pixels.shape
        batch = [job for job in self._waiting if (job.model, job.pixels.shape) == form][:MOST_AT_ONCE]
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    def _predict(self, model: str, images: list[Pixels]) -> list[Mask]:
        return self.models[model].predict_batch(images)
