"""fullyconv publish."""

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["publish"]


def publish(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, such as RUN/best.safetensors.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make; its name is the title.")],
    data: Annotated[
        str | None, typer.Option(metavar="WORDS", help="What it was trained on, for the card.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="Of the model, such as apache-2.0.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the Hugging Face Hub, too.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="For all to see, if the repository is new.")] = False,
) -> None:
    """Write a folder with a model and its card, and upload it if asked."""
    from fullyconv.hub import push_to_hub, save_pretrained

    sys.stdout.write(f"{save_pretrained(model, folder, data=data, licence=licence)}\n")
    if push is not None:
        sys.stdout.write(f"{push_to_hub(folder, push, private=not public)}\n")
