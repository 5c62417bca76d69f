"""The application: routes, and what becomes of errors."""

import errno
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fullyconv import __version__
from fullyconv.errors import FullyConvError
from fullyconv.predict import Predictor
from fullyconv.serve import label_studio, open_inference, opened_route, page_route, predict_route
from fullyconv.serve.context import Context, UnknownError
from fullyconv.serve.guard import FAILED, Guard
from fullyconv.serve.limits import Limits
from fullyconv.serve.measures import CONTENT_TYPE, Measures
from fullyconv.serve.opened import Opened
from fullyconv.serve.received import GoneError, TooLargeError, UnsupportedError
from fullyconv.serve.work import BusyError, Work

__all__ = ["create_app"]

RETRY_AFTER = 1
"""Seconds after which a request that was sent away may come again."""

HUNG_UP = 499
"""Status of answers that nobody reads."""


def create_app(
    models: Mapping[str, Predictor],
    folder: Path,
    *,
    limits: Limits | None = None,
    hosts: Sequence[str] = (),
    token: str = "",
    label_studio_images: Path | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        models: Predictors by the names under which they are called; the first one answers where none is named.
        folder: An empty folder of our own, for files of requests.
        limits: What is taken.
        hosts: Names of the service beside localhost and IP addresses.
        token: Which everybody has to know; "" if nobody has to.
        label_studio_images: A folder in which images that Label Studio names are looked for; by default such
            images have to be in its tasks.
    """
    limits = limits or Limits()
    measures = Measures()
    work = Work(models, limits, measures)
    context = Context(work, limits, folder, label_studio_images)
    opened = Opened(context)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work.start()
        yield
        await opened.close_all()
        await work.stop()

    app = FastAPI(
        title="fullyconv",
        version=__version__,
        description="Semantic segmentation with fully convolutional networks.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    for routes in (
        predict_route.router(context),
        opened_route.router(context, opened),
        open_inference.router(context),
        label_studio.router(context),
        page_route.router(context),
    ):
        app.include_router(routes)

    @app.get("/metrics", tags=["operation"], summary="Counters for Prometheus", response_class=Response)
    def metrics() -> Response:
        return Response(measures.shown(), media_type=CONTENT_TYPE)

    app.state.work = work
    _answer_errors(app)
    app.add_middleware(Guard, hosts=hosts, token=token, limits=limits, measures=measures)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Turn exceptions into answers: one line, and no path of this machine."""

    def answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, dict(headers or {}))

    async def of_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, FullyConvError)
        kinds = {BusyError: 503, TooLargeError: 413, UnsupportedError: 415, UnknownError: 404}
        status = kinds.get(type(error), 400 if error.exit_code == 2 else 500)
        if status == 500:
            logging.getLogger(__name__).error("%s", error)
            return answer(500, FAILED)
        return answer(status, str(error), {"retry-after": str(RETRY_AFTER)} if status == 503 else None)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(error.status_code, str(error.detail), error.headers)

    async def of_parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return answer(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    async def of_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=HUNG_UP)

    async def of_disk(request: Request, error: Exception) -> Response:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        return answer(503, "the disk of the service is full", {"retry-after": str(RETRY_AFTER)})

    app.add_exception_handler(FullyConvError, of_ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_parameters)
    app.add_exception_handler(GoneError, of_gone)
    app.add_exception_handler(OSError, of_disk)
