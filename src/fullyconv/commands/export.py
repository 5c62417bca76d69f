"""fullyconv export."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fullyconv.commands.arguments import Json, Model

__all__ = ["export"]


def export(
    model: Model,
    kind: Annotated[str, typer.Option("--format", metavar="FORMAT", help="onnx or openvino.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The file to write.", show_default="beside the model"),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Compute with 8 bits; needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="A data set to calibrate int8 on and to compare on.", show_default="drawn images"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model for ONNX Runtime or OpenVINO: one file, any image size, compared with the model first."""
    from fullyconv.dataset import Dataset
    from fullyconv.engines import EXPORTED_SUFFIXES
    from fullyconv.errors import UsageError
    from fullyconv.export import export_model
    from fullyconv.predict import Predictor
    from fullyconv.progress import Console

    suffixes = {engine: suffix for suffix, engine in EXPORTED_SUFFIXES.items()}
    if kind not in suffixes:
        raise UsageError(f"a format is {' or '.join(suffixes)}, got {kind}")
    console = Console()
    predictor = Predictor(model, device="cpu", precision="float32")
    path = out or model.with_name(f"{model.stem}{'_int8' * int8}{suffixes[kind]}")
    if path.suffix.lower() != suffixes[kind]:
        raise UsageError(f"a file for {kind} ends in {suffixes[kind]}, got {path}")
    table, form = predictor.class_table, predictor.image_form
    data = Dataset.open(calibrate, class_table=table, image_form=form) if calibrate else None
    found = export_model(predictor, path, int8=int8, data=data, progress=console)
    if as_json:
        sys.stdout.write(json.dumps({"file": str(path), **found.to_json()}, allow_nan=False) + "\n")
    else:
        sys.stdout.write(f"{path}: {found}\n")
