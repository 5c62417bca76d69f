"""fullyconv pretrain."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.config import PretrainConfig, pretrain_config
from fullyconv.errors import UsageError
from fullyconv.options import run_settings, with_options

__all__ = ["pretrain"]


@with_options(PretrainConfig)
def pretrain(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Images, folders or globs; no masks are needed.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="The run folder.", show_default="runs/cae-<n>"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings from a TOML file, such as a run's config.toml."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    **options: Any,
) -> None:
    """Train a convolutional autoencoder on images alone; its encoder serves `train --encoder cae:FILE`."""
    from fullyconv.pretrain import pretrain as run_pretraining
    from fullyconv.progress import Console
    from fullyconv.run_folder import next_run_folder

    if resume and out is None:
        raise UsageError("--resume needs the run folder to go on with", hint="give it with -o RUN")
    folder = out or next_run_folder(Path("cae"))
    values, source = run_settings(PretrainConfig, options, config, folder, resume)
    console = Console()
    result = run_pretraining(
        images, folder, pretrain_config(values, source=source), resume=resume, progress=console
    )
    console.say(f"held-out MSE {result.val_mse:.5f}; the autoencoder is {result.cae}")
    console.say(f"next: fullyconv train DATA --encoder cae:{result.cae}, or with --decoder cae, too")
