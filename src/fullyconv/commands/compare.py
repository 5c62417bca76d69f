"""fullyconv compare."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fullyconv.commands.arguments import Data, Device, Group, Json, Precision, Split, measured_split
from fullyconv.errors import UsageError

__all__ = ["compare"]


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A model file, or an exported one.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, with the same classes.")],
    data: Data,
    split: Split = None,
    group: Group = None,
    as_json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Say whether one model is better than another on the same images, or whether that cannot be told."""
    from fullyconv.bootstrap import compare as compare_matrices
    from fullyconv.bootstrap import groups_of
    from fullyconv.choose_engine import open_predictor
    from fullyconv.dataset import Dataset
    from fullyconv.evaluate import evaluate_images
    from fullyconv.progress import Console

    console = Console()
    predictors = [open_predictor(path, device=device, precision=precision) for path in (first, second)]
    tables = [predictor.class_table for predictor in predictors]
    if tables[0].names != tables[1].names:
        raise UsageError(
            f"expected models with the same classes, got {', '.join(tables[0].names)} and "
            f"{', '.join(tables[1].names)}"
        )
    if predictors[0].image_form != predictors[1].image_form:
        raise UsageError(
            f"expected models of the same images, got {predictors[0].image_form} and {predictors[1].image_form}"
        )
    dataset = Dataset.open(data, class_table=tables[0], image_form=predictors[0].image_form)
    chosen, measured = measured_split(dataset, split, predictors[0].training_record, console)
    groups = groups_of([sample.id for sample in chosen], group)
    before, after = (evaluate_images(predictor, chosen, progress=console)[1] for predictor in predictors)
    found = compare_matrices(before, after, groups)
    if as_json:
        document = {"split": measured, **{name: one.to_json() for name, one in found.items()}}
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    else:
        for one in found.values():
            sys.stdout.write(one.words() + "\n")
