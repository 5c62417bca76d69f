"""fullyconv serve."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from fullyconv.commands.arguments import Device, Engine, Memory, Precision
from fullyconv.errors import UsageError, show_path

__all__ = ["serve"]

TOKEN_VARIABLE = "FULLYCONV_TOKEN"

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="Model files, or exported ones; NAME=FILE to name them.")
]
Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen; others than this machine need a token.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the token that every request has to carry, as bearer or as password.",
        show_default=f"the variable {TOKEN_VARIABLE}",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name under which it may be called, beside localhost and IP addresses."),
]
Queue = Annotated[int, typer.Option(min=1, help="Requests that wait at most; others are sent away with 503.")]
MaxBody = Annotated[str, typer.Option(metavar="SIZE", help="Of a request, at most.")]
LabelStudioImages = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where images that Label Studio names lie, such as its upload folder."),
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Of an image, at most.")]


def serve(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    allow_host: AllowHost = None,
    queue: Queue = 32,
    max_body: MaxBody = "256MB",
    max_pixels: MaxPixels = 50_000_000,
    label_studio_images: LabelStudioImages = None,
    memory: Memory = None,
    engine: Engine = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve models over HTTP, and a page to try them on."""
    try:
        from fullyconv.serve import Limits
        from fullyconv.serve import serve as serve_models
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fullyconv"):
            raise
        raise UsageError(
            f"serve needs {error.name}, which is not installed", hint='pip install "fullyconv[serve]"'
        ) from None
    from fullyconv.choose_engine import open_predictor
    from fullyconv.memory import parsed_bytes
    from fullyconv.progress import Console

    if engine == "auto":
        raise UsageError("--engine auto compares on an image, and there is none yet", hint="name one: openvino")
    console = Console()
    allowed = None if memory is None else parsed_bytes(memory)
    opened = {
        name: open_predictor(path, engine=engine, device=device, precision=precision, memory=allowed)
        for name, path in _named(models).items()
    }
    serve_models(
        opened,
        host=host,
        port=port,
        token=_token(token_file),
        hosts=allow_host or (),
        limits=Limits(body_bytes=parsed_bytes(max_body), pixels=max_pixels, waiting=queue),
        label_studio_images=label_studio_images,
        progress=console,
    )


def _named(models: list[str]) -> dict[str, Path]:
    """The names of models: as given, else of their files, or of the run folders that these lie in."""
    found: dict[str, Path] = {}
    for given in models:
        name, separator, rest = given.partition("=")
        path = Path(rest if separator else given)
        if not separator:
            name = path.parent.name if path.stem in ("best", "last") and path.parent.name else path.stem
        name = re.sub(r"[^\w.-]", "-", name) or "model"
        if name in found:
            raise UsageError(
                f"{show_path(found[name])} and {show_path(path)} would both be called {name}",
                hint=f"name them: other={show_path(path)}",
            )
        found[name] = path
    return found


def _token(path: Path | None) -> str:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{show_path(path)}: the token cannot be read: {error}") from None
    if not token:
        raise UsageError(f"{show_path(path)}: expected a token, the file is empty")
    return token
