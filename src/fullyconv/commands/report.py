"""fullyconv report."""

import csv
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import Data, Device, Engine, Group, Model, Precision, Split, measured_split
from fullyconv.errors import UsageError

if typing.TYPE_CHECKING:
    from fullyconv.predict import Predictor

__all__ = ["report"]


def report(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    split: Split = None,
    group: Group = None,
    engine: Engine = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure a model and write one HTML page: intervals, classes, objects by size, calibration, worst images."""
    from fullyconv.atomic import atomic_path
    from fullyconv.bootstrap import groups_of
    from fullyconv.choose_engine import open_predictor
    from fullyconv.dataset import Dataset
    from fullyconv.progress import Console
    from fullyconv.report import measure, report_page

    console = Console()
    if out.exists():
        raise UsageError(f"{out} exists already", hint="choose another name with -o FILE")
    if engine == "auto":
        raise UsageError("a report names one engine: torch, onnx or openvino, got auto")
    predictor = open_predictor(model, engine=engine, device=device, precision=precision)
    dataset = Dataset.open(data, class_table=predictor.class_table, image_form=predictor.image_form)
    chosen, measured = measured_split(dataset, split, predictor.training_record, console)
    groups = groups_of([sample.id for sample in chosen], group) if group is not None else None
    counted = measure(predictor, chosen, progress=console)
    page = report_page(
        predictor,
        counted,
        _description(model, predictor),
        title=f"{model.parent.name or model.stem} on {data.name}",
        history=_history(model.parent / "metrics.csv"),
        groups=groups,
        split=measured,
    )
    with atomic_path(out, overwrite=False) as temporary:
        temporary.write_text(page, encoding="utf-8")
    sys.stdout.write(f"{out}\n")


def _description(model: Path, predictor: "Predictor") -> Mapping[str, Any]:
    """What the model file says of itself; an exported one says what that said from which it was made."""
    from fullyconv.engines import ExportedPredictor
    from fullyconv.model_file import read_description

    return predictor.facts.description if isinstance(predictor, ExportedPredictor) else read_description(model)


def _history(path: Path) -> list[dict[str, float]]:
    """The epochs of the run that a model lies in, if it lies in one."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if value} for row in rows]
