"""fullyconv evaluate."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fullyconv.commands.arguments import Data, Device, Engine, Group, Json, Model, Precision, Split, measured_split

__all__ = ["evaluate"]


def evaluate(
    model: Model,
    data: Data,
    split: Split = None,
    matrix: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write the confusion matrix as a picture.")
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Say how sure the four metrics are: 95 % intervals over images.")
    ] = False,
    group: Group = None,
    as_json: Json = False,
    engine: Engine = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure a model on a data set: the four metrics, and each class."""
    from fullyconv.bootstrap import groups_of
    from fullyconv.bootstrap import intervals as spans_of
    from fullyconv.charts import confusion_figure
    from fullyconv.choose_engine import open_predictor
    from fullyconv.dataset import Dataset
    from fullyconv.evaluate import evaluate_images
    from fullyconv.formats import find_samples
    from fullyconv.pictures import save_picture
    from fullyconv.progress import Console

    console = Console()
    example = None
    if engine == "auto":
        example = find_samples(data).samples[0].image
    predictor = open_predictor(
        model, engine=engine, device=device, precision=precision, example=example, progress=console
    )
    dataset = Dataset.open(data, class_table=predictor.class_table, image_form=predictor.image_form)
    chosen, measured = measured_split(dataset, split, predictor.training_record, console)
    report, counts = evaluate_images(predictor, chosen, progress=console)
    spans = spans_of(counts, groups_of([sample.id for sample in chosen], group)) if intervals else {}
    if matrix is not None:
        save_picture(confusion_figure(report.counts, predictor.class_table.names), matrix)
    if as_json:
        found = {name: [span.low, span.high] for name, span in spans.items()}
        document = {**report.to_json(), "split": measured} | ({"intervals": found} if intervals else {})
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    else:
        sys.stdout.write(report.table() + "\n")
        for name, span in spans.items():
            sys.stdout.write(f"{name.replace('_', ' ').replace('iou', 'IoU')}: {span}\n")
