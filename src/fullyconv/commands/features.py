"""fullyconv features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import Data, OnCluster, Workers
from fullyconv.config import TrainConfig, config_from_mapping
from fullyconv.errors import UsageError
from fullyconv.options import run_settings, with_options
from fullyconv.recipes import RECIPES

__all__ = ["features"]


@with_options(TrainConfig)
def features(
    data: Data,
    cluster: OnCluster = None,
    workers: Workers = None,
    recipe: Annotated[str, typer.Option(help=f"Named settings: {', '.join(RECIPES)}.")] = "default",
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings from a TOML file, such as a run's config.toml."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: pretrained weights have to be on this machine.")
    ] = False,
    **options: Any,
) -> None:
    """Compute the features that `train` with the same settings will read, and keep them in the feature cache."""
    from fullyconv.fill_cache import fill_cache
    from fullyconv.progress import Console

    if workers is not None and cluster is None:
        raise UsageError("--workers is for --cluster", hint="add --cluster local")
    values, source = run_settings(TrainConfig, options, config, Path(), resume=False)
    settings = config_from_mapping(values, base=recipe, source=source)
    console = Console()
    new = fill_cache(data, settings, cluster=cluster, workers=workers, offline=offline, progress=console)
    console.say(f"{new} new entries in the feature cache; next: fullyconv train {data} with the same settings")
