"""fullyconv convert."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fullyconv.commands.arguments import Channels, Classes, Data, Json, ValueRange, image_form

__all__ = ["convert"]


def convert(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="folders, coco, panoptic, labelme, label-studio, yolo, nnunet, voc, cvat, cityscapes, ade20k, "
            "camvid, npy or hugging-face.",
        ),
    ] = "folders",
    classes: Classes = None,
    ignore: Annotated[
        list[int] | None, typer.Option(metavar="VALUE", help="Mask values that are no class.")
    ] = None,
    channels: Channels = 3,
    value_range: ValueRange = None,
    as_json: Json = False,
) -> None:
    """Write a data set in another format, read back and compared before it appears."""
    from fullyconv.convert import convert as run_conversion
    from fullyconv.dataset import Dataset
    from fullyconv.progress import Console

    console = Console()
    form = image_form(channels, value_range)
    dataset = Dataset.open(data, classes=classes, ignore=ignore or (), image_form=form)
    for note in dataset.notes:
        console.say(note)
    done = run_conversion(dataset, out, kind, progress=console)
    for note in done.notes:
        console.say(f"written: {note}")
    if as_json:
        sys.stdout.write(json.dumps({"folder": str(out), "format": kind, "samples": done.samples}) + "\n")
    else:
        sys.stdout.write(f"{out}\n")
