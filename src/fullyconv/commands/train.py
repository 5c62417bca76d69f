"""fullyconv train."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import Data
from fullyconv.config import TrainConfig, config_from_mapping
from fullyconv.errors import UsageError
from fullyconv.options import run_settings, with_options
from fullyconv.recipes import RECIPES

__all__ = ["train"]


@with_options(TrainConfig)
def train(
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="The run folder.", show_default="runs/<data>-<n>"),
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"Named settings: {', '.join(RECIPES)}.")] = "default",
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings from a TOML file, such as a run's config.toml."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    start_from: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Start from the decoder of a model file.")
    ] = None,
    staged: Annotated[
        bool,
        typer.Option("--staged", help="Stage by stage (decoder fcn): FCN-32s, FCN-16s from it, FCN-8s from that."),
    ] = False,
    cache: Annotated[bool, typer.Option(help="Keep features on disk.")] = True,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: pretrained weights have to be on this machine.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Follow the run with tensorboard, wandb or mlflow, too."),
    ] = None,
    **options: Any,
) -> None:
    """Train a model on a folder of images and masks."""
    from fullyconv import processes
    from fullyconv.dataset import Dataset
    from fullyconv.device import choose_device
    from fullyconv.model import image_form_of
    from fullyconv.progress import Console, Progress, Silent
    from fullyconv.staged import train_staged
    from fullyconv.trackers import open_trackers
    from fullyconv.train import train as run_training

    folder = out or _new_folder(data, resume)
    elsewhere = {"recipe": recipe != "default", "from": start_from is not None}
    values, source = run_settings(TrainConfig, options, config, folder, resume, **elsewhere)
    settings = config_from_mapping(values, base=recipe, source=source)
    trackers = open_trackers(track or ())
    if staged and (start_from is not None or trackers):
        raise UsageError("--staged takes neither --from nor --track", hint="train the stages one by one")
    with processes.joined(choose_device(settings.device)):
        console: Progress = Console() if processes.is_first() else Silent()
        if settings.encoder_weights == "none":
            console.say(f"WARNING: encoder {settings.encoder} is RANDOM (weights none): expect poor masks")
        form = image_form_of(settings)
        dataset = Dataset.open(data, classes=settings.classes, ignore=settings.ignore, image_form=form)
        started: dict[str, Any] = {"resume": resume, "use_cache": cache, "offline": offline, "progress": console}
        if staged:
            stages = train_staged(dataset, folder, settings, **started)
            result = stages[min(stages)]
            for stride, stage in stages.items():
                console.say(f"FCN-{stride}s  val mean IoU {stage.report.mean_iou:.4f}")
        else:
            result = run_training(dataset, folder, settings, start_from=start_from, trackers=trackers, **started)
    console.say(f"best val mean IoU {result.report.mean_iou:.4f}; the model is {result.model}")
    console.say(f"next: fullyconv predict {result.model} IMAGES -o masks")


def _new_folder(data: Path, resume: bool) -> Path:
    """Choose a run folder that is not there yet."""
    from fullyconv.processes import refuse_several
    from fullyconv.run_folder import next_run_folder

    if resume:
        raise UsageError("--resume needs the run folder to go on with", hint="give it with -o RUN")
    refuse_several("a run whose folder is not named", hint="give it with -o RUN")
    return next_run_folder(data)
