"""The queue before the models: bounded, in batches, and nobody is computed who went away."""

import asyncio
import threading
import time

import numpy as np
import pytest
from service import make_pixels, make_predictor

from fullyconv.serve import work as work_module
from fullyconv.serve.limits import Limits
from fullyconv.serve.measures import Measures
from fullyconv.serve.work import BusyError, Work
from fullyconv.tiles import Box


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


class Held:
    """A predictor that computes when it is let."""

    def __init__(self, predictor):
        self.predictor, self.batches, self.go = predictor, [], threading.Event()

    def predict_batch(self, images):
        self.go.wait(30)
        self.batches.append(len(images))
        return self.predictor.predict_batch(images)


def run(models, use, **limits):
    """Run `use(work)` with a queue that is started and stopped."""

    async def main():
        work = Work(models, Limits(**limits), Measures())
        work.start()
        try:
            return await use(work)
        finally:
            await work.stop()

    return asyncio.run(main())


def test_images_of_one_size_that_wait_are_one_batch(predictor):
    held = Held(predictor)
    images = [make_pixels(seed=seed) for seed in range(11)] + [make_pixels(24, 24)]

    async def use(work):
        tasks = [asyncio.create_task(work.mask("m", image)) for image in images]
        await asyncio.sleep(0.05)
        held.go.set()
        return await asyncio.gather(*tasks)

    masks = run({"m": held}, use)
    assert held.batches == [8, 3, 1]
    for image, mask in zip(images, masks, strict=True):
        assert np.array_equal(mask, predictor.predict(image))


def test_who_goes_away_is_not_computed(predictor):
    held = Held(predictor)

    async def use(work):
        first = asyncio.create_task(work.mask("m", make_pixels()))
        await asyncio.sleep(0.05)  # it is being computed
        others = [asyncio.create_task(work.mask("m", make_pixels(24, 24, seed))) for seed in range(3)]
        await asyncio.sleep(0.01)
        others[1].cancel()
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(first, *others, return_exceptions=True)

    run({"m": held}, use)
    assert held.batches == [1, 2]


def test_a_batch_that_fails_is_its_requests_failure_and_nobody_elses(predictor):
    class Failing(Held):
        def predict_batch(self, images):
            if images[0].shape[0] == 24:
                raise MemoryError("no")
            return self.predictor.predict_batch(images)

    async def use(work):
        with pytest.raises(MemoryError):
            await work.mask("m", make_pixels(24, 24))
        return await work.mask("m", make_pixels())

    assert np.array_equal(run({"m": Failing(predictor)}, use), predictor.predict(make_pixels()))


def test_there_are_so_many_places(predictor):
    async def use(work):
        with work.place(), work.place(), pytest.raises(BusyError, match="2 requests wait"), work.place():
            pass
        with work.place():
            pass

    run({"m": predictor}, use, waiting=2)


def test_memory_is_held_together_but_one_may_have_more(predictor):
    async def use(work):
        with work.hold(150):  # alone
            pass
        with work.hold(60), work.hold(40), pytest.raises(BusyError, match="hold 100 bytes"), work.hold(1):
            pass
        with work.hold(100):
            pass

    run({"m": predictor}, use, held_bytes=100)


def test_memory_grows_as_it_is_needed(predictor):
    async def use(work):
        with work.hold() as one, work.hold() as other:
            one(60)
            one(60)  # alone
            with pytest.raises(BusyError, match="hold 120 bytes"):
                other(1)
        with work.hold(100):
            pass

    run({"m": predictor}, use, held_bytes=100)


def test_a_service_that_ends_takes_nobody(predictor):
    async def use(work):
        with work.place():
            work.ready = False
            assert not work.is_idle
            with pytest.raises(BusyError, match="the service ends"):
                work.expect_place()
        assert work.is_idle

    run({"m": predictor}, use)


def test_a_large_image_is_computed_by_parts_and_small_ones_between(predictor, monkeypatch):
    large, small = make_pixels(96, 64), make_pixels(24, 24)
    monkeypatch.setattr(work_module, "FREE_PIXELS", 1000)
    whole, order = predictor.predict(large), []

    class Cut:
        def measured_parts(self, size, read, measures):
            for top in range(0, 96, 32):
                time.sleep(0.02)
                order.append("part")
                yield Box(top, 0, top + 32, 64), whole[top : top + 32], {}

        def predict_batch(self, images):
            order.append("small")
            return predictor.predict_batch(images)

    async def use(work):
        found, _ = await asyncio.gather(work.mask("m", large), work.mask("m", small))
        return found

    assert np.array_equal(run({"m": Cut()}, use), whole)
    assert order.index("small") < len(order) - 1
    parts = run({"m": predictor}, lambda work: work.mask_with_confidence("m", large))
    for part, one in zip(parts, predictor.predict_with_confidence(large), strict=True):
        assert np.array_equal(part, one)
    assert order.count("part") == 3
