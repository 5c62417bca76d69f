"""fullyconv explain."""

import json
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import Json, measured_split
from fullyconv.config import TrainConfig
from fullyconv.errors import UsageError
from fullyconv.options import parsed, parsed_size, with_options

if typing.TYPE_CHECKING:
    from fullyconv.ablation import Ablation
    from fullyconv.model import FCN
    from fullyconv.stages import Outline

__all__ = ["explain"]


@with_options(TrainConfig, ("stride", "scales", "hidden", "upsampling", "fc", "width", "auxiliary"))
def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model file, or ENCODER+DECODER, such as vgg16+lecture: the network that train would build. "
            "--classes and the settings of training below shape the latter.",
        ),
    ],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Follow an image of this height and width through it.")
    ] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="The same for an image file.")] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="Number of classes of ENCODER+DECODER.", show_default="2")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FIGURE", help="Draw it: .png, .svg or .pdf; --data adds two more."),
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Draw it as it is built up: FIGURE_1, FIGURE_2, ...")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Measure what each stride of a model file contributes here."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all.", show_default="test, else val, else all")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="On how many images at most; drawn with seed 0.")] = 50,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Say what a network is made of, what becomes of an image's size in it, and draw it."""
    from fullyconv.diagrams import draw
    from fullyconv.explain import contribution_pictures, describe, figure_files, find_network, outline_of, sizes_of
    from fullyconv.pictures import save_picture
    from fullyconv.stored import stored_size

    if steps and out is None:
        raise UsageError("--steps needs a figure to draw", hint="name it with -o FIGURE.png")
    if size is not None and image is not None:
        raise UsageError("expected --size or --image, got both", hint="leave one out")
    network = find_network(model, classes, parsed(TrainConfig, options))
    outline = outline_of(network)
    pixels = stored_size(image) if image else parsed_size(size) if size is not None else None
    sizes = sizes_of(outline, pixels) if pixels else None
    files = figure_files(out, outline, steps=steps, contributions=data is not None) if out else {}
    measured = _contributions(network, outline, data, split, images) if data else None
    pictures = contribution_pictures(measured, network.class_table) if measured else {}
    for what, file in files.items():
        save_picture(
            pictures[what] if what in pictures else draw(outline, sizes, int(what)), file, overwrite=False
        )
    if as_json:
        found = {**outline.to_json(), **({"sizes": sizes.to_json()} if sizes else {})}
        found |= {"contributions": measured.to_json()} if measured else {}
        sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")
    else:
        sys.stdout.write("\n\n".join([describe(outline, sizes), *([measured.table()] if measured else [])]) + "\n")


def _contributions(network: "FCN", outline: "Outline", data: Path, split: str | None, images: int) -> "Ablation":
    """Measure what each stride of a model contributes."""
    from fullyconv.ablation import measure_strides
    from fullyconv.dataset import Dataset
    from fullyconv.feature_cache import FeatureCache
    from fullyconv.predict import Predictor
    from fullyconv.progress import Console

    if any(parameter.is_meta for parameter in network.parameters()):
        raise UsageError("--data needs a trained model, got names", hint="give a model file instead")
    console = Console()
    dataset = Dataset.open(data, class_table=network.class_table, image_form=network.encoder.image_form)
    chosen, _ = measured_split(dataset, split, network.training_record, console, images)
    return measure_strides(
        Predictor(network), outline, chosen, images=images, cache=FeatureCache(), progress=console
    )
