"""fullyconv import."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["import_"]


def import_(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="A file that others published, such as fcn_resnet50_coco.pth."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The model file.", show_default="WEIGHTS.safetensors"),
    ] = None,
    at_once: Annotated[
        bool | None,
        typer.Option(
            help="Whether an FCN-8s was trained at once, where neither its file nor its name says so.",
            show_default="what they say",
        ),
    ] = None,
) -> None:
    """Turn weights that others published into a model file, or an encoder's into a file for --encoder-weights.

    Every tensor is checked by name and shape.
    """
    from fullyconv.importers import import_encoder, import_model
    from fullyconv.importers.encoders import save_encoder
    from fullyconv.model import describe
    from fullyconv.model_file import read_description, save_model

    # A name that ends in a digest, as torchvision's do, is held to it: what is written here has another one.
    stem = re.sub("-[0-9a-f]{8}$", "", Path(weights.name.removesuffix(".tar")).stem)
    path = out or Path(f"{stem}.safetensors")
    if at_once is None and (found := import_encoder(weights)):
        encoder, tensors = found
        save_encoder(tensors, path)
        sys.stdout.write(f"the encoder {encoder}, without classes: {len(tensors)} tensors\n{path}\n")
        sys.stdout.write(f"next: fullyconv train DATA --encoder {encoder} --encoder-weights {path}\n")
        return
    save_model(import_model(weights, at_once=at_once), path, overwrite=False)
    sys.stdout.write(f"{describe(read_description(path))}\n{path}\n")
