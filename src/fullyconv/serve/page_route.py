"""The page: its files, what it has to know of the service, and images to try."""

import hashlib
import io
import mimetypes
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from PIL import Image as PillowImage

from fullyconv import __version__
from fullyconv.serve.context import Context
from fullyconv.synthetic import CLASS_NAMES, draw_sample

__all__ = ["router"]

EXAMPLES = {"surface-1.png": (7, 1), "surface-2.png": (7, 4), "surface-3.png": (7, 6)}
"""Names of images to try, and the seeds that they are drawn with: other ones than those of `fullyconv demo`."""

EXAMPLE_SIZE = (384, 512)

_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)
    held = dict(_files(files("fullyconv.serve") / "static"))

    def sent(request: Request, name: str) -> Response:
        if name not in held:
            raise HTTPException(404, "there is nothing here")
        body, kind, tag = held[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)

    @routes.get("/")
    async def page(request: Request) -> Response:
        return sent(request, "index.html")

    @routes.get("/docs")
    async def docs(request: Request) -> Response:
        return sent(request, "docs.html")

    @routes.get("/static/{name:path}")
    async def static(request: Request, name: str) -> Response:
        return sent(request, name)

    @routes.get("/page/about")
    async def about() -> dict[str, Any]:
        limits = context.limits
        models = [
            {
                "name": name,
                "examples": [f"/page/examples/{example}" for example in EXAMPLES] if _draws(predictor) else [],
            }
            for name, predictor in context.work.models.items()
        ]
        return {
            "version": __version__,
            "models": models,
            "body_bytes": limits.body_bytes,
            "opened_pixels": limits.opened_pixels,
        }

    def _draws(predictor: Any) -> bool:
        """Whether a model was trained for what the examples show."""
        return tuple(predictor.class_table.names) == CLASS_NAMES

    @routes.get("/page/examples/{name}")
    async def example(name: str) -> Response:
        if name not in EXAMPLES:
            raise HTTPException(404, "there is no such example")
        return Response(await context.work.code(_example, name), media_type="image/png")

    return routes


@lru_cache(len(EXAMPLES))
def _example(name: str) -> bytes:
    image, _ = draw_sample(EXAMPLE_SIZE, EXAMPLES[name])
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _files(folder: Traversable, prefix: str = "") -> list[tuple[str, tuple[bytes, str, str]]]:
    """All files below a folder: name, and bytes, type and tag."""
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
            continue
        body = entry.read_bytes()
        kind = next((kind for ending, kind in _TYPES.items() if entry.name.endswith(ending)), None)
        kind = kind or mimetypes.guess_type(entry.name)[0] or "text/plain"
        found.append((prefix + entry.name, (body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')))
    return found
