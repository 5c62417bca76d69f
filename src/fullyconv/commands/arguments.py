"""Arguments that several verbs take, and what they say of them."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.errors import UsageError

if typing.TYPE_CHECKING:
    from fullyconv.dataset import Dataset
    from fullyconv.image_form import ImageForm
    from fullyconv.progress import Console

__all__ = [
    "Channels",
    "Classes",
    "Data",
    "Device",
    "Engine",
    "Group",
    "Ignore",
    "Json",
    "Memory",
    "Model",
    "OnCluster",
    "Precision",
    "Split",
    "Threads",
    "Tile",
    "ValueRange",
    "Workers",
    "image_form",
    "measured_split",
]

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, such as RUN/best.safetensors, or an exported one.")
]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder with images/ and masks/, COCO, LabelMe, PASCAL VOC or others, or a list of pairs.",
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="FILE|NAMES", help="A class table, or names of the values 0, 1, 2, ...")
]
Ignore = Annotated[list[int] | None, typer.Option(metavar="VALUE", help="Mask values that are no class.")]
Channels = Annotated[
    int, typer.Option(min=1, max=64, help="Channels of the images as stored; 3 is RGB of any file.")
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH", help="Stored values that are black and white.", show_default="all of 8 or 16 bits"
    ),
]
Split = Annotated[
    str | None, typer.Option(help="train, val, test or all.", show_default="test, else val, else all")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="torch, onnx, openvino, or auto: the fastest that agrees with torch on the first image.",
        show_default="torch; that of an exported file",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Images whose ids agree in this belong together, as frames of a video do: '^([^_]+)'.",
        show_default="each image by itself",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What features may take, such as 800MB or 2GB: fewer rows are computed at a time then.",
        show_default="half of what is available",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(min=1, metavar="PX", help="Cut images into tiles of this side instead of bands of rows."),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="local|auto|ADDRESS",
        help="Work by several processes: a Ray of this machine, one that runs, or that at an address.",
        show_default="one process",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of the cluster.", show_default="one for each core")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads of each process, which the last bits depend on.",
        show_default="every core; 1 with --cluster",
    ),
]
Precision = Annotated[str, typer.Option(help="Of the encoder: auto, float32 or bfloat16.")]


def image_form(channels: int, value_range: str | None) -> "ImageForm":
    """Read the two options that say how images are stored.

    Raises:
        UsageError: The range is not two numbers that rise.
    """
    from fullyconv.image_form import ImageForm

    if value_range is None:
        return ImageForm(channels)
    try:
        low, high = map(float, value_range.split(","))
    except ValueError:
        raise UsageError(f"--value-range has to be LOW,HIGH, got {value_range}", hint="such as 0,4095") from None
    return ImageForm(channels, (low, high))


def measured_split(
    dataset: "Dataset",
    split: str | None,
    training_record: Mapping[str, Any],
    console: "Console",
    most: int | None = None,
) -> tuple["Dataset", str]:
    """Choose what to measure on, and say what was assumed, which split it is, and whether it was learned from."""
    from fullyconv.evaluate import choose_split

    chosen = choose_split(dataset, split, training_record)
    for note in dataset.notes:
        console.say(note)
    measured = next(iter(chosen.splits)) if len(chosen.splits) == 1 else "all"
    console.say(f"measuring {min(len(chosen), most or len(chosen))} images ({measured})")
    if split is None and measured not in ("test", "val"):
        console.say(
            "WARNING: there is no test or val split: images that the model was trained on may be among them; "
            "--split val measures those that its training held out"
        )
    return chosen, measured
