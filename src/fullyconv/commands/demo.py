"""fullyconv demo."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="The run folder.", show_default="runs/demo, runs/demo-2, ..."
        ),
    ] = None,
) -> None:
    """Draw an inspection data set, train on it, measure, predict, and say what to type next."""
    from fullyconv.demo import demo as run_demo
    from fullyconv.demo import next_demo_folder
    from fullyconv.progress import Console

    run_demo(out or next_demo_folder(), Console())
