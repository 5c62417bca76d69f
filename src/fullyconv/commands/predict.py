"""fullyconv predict."""

import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import (
    Device,
    Engine,
    Memory,
    Model,
    OnCluster,
    Precision,
    Threads,
    Tile,
    Workers,
)
from fullyconv.errors import FullyConvError, UsageError, show_path

if typing.TYPE_CHECKING:
    from fullyconv.predict import Predictor

__all__ = ["predict"]


Geojson = Annotated[
    bool, typer.Option("--geojson", help="Write outlines as NAME.geojson, of GeoTIFFs on their map.")
]
Coco = Annotated[
    bool, typer.Option("--coco", help="Write the outlines of all images as one COCO file, predictions.json.")
]
Areas = Annotated[bool, typer.Option("--areas", help="Write areas.csv: the pixels of each class in each image.")]
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, folders, globs or .npy arrays.")]
Out = Annotated[str | None, typer.Option("-o", "--out", metavar="DIR", help="Where masks and overlays go.")]
Overlay = Annotated[bool, typer.Option(help="Write an overlay with a legend beside each mask.")]
VerifyTiling = Annotated[
    bool, typer.Option("--verify-tiling", help="Compare tiles and rows with the whole image; write nothing.")
]
RulesFile = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        metavar="TOML",
        help="Judge each mask, write verdicts.csv, and end with exit code 1 if one fails.",
    ),
]
Probabilities = Annotated[
    bool,
    typer.Option("--probabilities", help="Write class probabilities as C x H x W float16 .npz, too."),
]
Confidence = Annotated[
    bool,
    typer.Option("--confidence", help="Write the probability of each pixel's class as a grey image, too."),
]
Margin = Annotated[
    bool,
    typer.Option(
        "--margin",
        help="Write 1 - p2 / p1 of each pixel's two most probable classes as a grey image, too.",
    ),
]
Lecture = Annotated[
    bool,
    typer.Option("--lecture", help="Write the lecture's figures, too: class maps, mask alone, pasted mask."),
]


def predict(
    model: Model,
    inputs: Inputs,
    out: Out = None,
    overlay: Overlay = True,
    probabilities: Probabilities = False,
    confidence: Confidence = False,
    margin: Margin = False,
    lecture: Lecture = False,
    geojson: Geojson = False,
    coco: Coco = False,
    areas: Areas = False,
    rules: RulesFile = None,
    cluster: OnCluster = None,
    workers: Workers = None,
    threads: Threads = None,
    memory: Memory = None,
    tile: Tile = None,
    verify_tiling: VerifyTiling = False,
    engine: Engine = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Predict masks of images."""
    from fullyconv.memory import parsed_bytes

    outputs = {
        "overlay": overlay,
        "probabilities": probabilities,
        "confidence": confidence,
        "margin": margin,
        "lecture": lecture,
    }
    computing = {
        "engine": engine,
        "device": device,
        "precision": precision,
        "memory": None if memory is None else parsed_bytes(memory),
        "tile": tile,
    }
    alone = {
        "geojson": geojson,
        "coco": coco,
        "areas": areas,
        "rules": rules,
        "verify-tiling": verify_tiling,
    }
    if cluster is not None:
        for option, given in {**alone, "engine auto": engine == "auto"}.items():
            if given:
                raise UsageError(f"--{option} is for one process", hint="leave it out, or --cluster")
        settings = {**outputs, **computing, "threads": threads or 1}
        _on_cluster(model, inputs, _named(out), cluster, workers, settings)
        return
    if workers is not None:
        raise UsageError("--workers is for --cluster", hint="add --cluster local")
    _in_one_process(model, inputs, out, threads, alone, outputs, computing)


def _in_one_process(
    model: Path,
    inputs: list[str],
    out: str | None,
    threads: int | None,
    options: Mapping[str, Any],
    outputs: Mapping[str, bool],
    computing: Mapping[str, Any],
) -> None:
    """Predict one image after the other."""
    from fullyconv.choose_engine import open_predictor
    from fullyconv.device import set_threads
    from fullyconv.image_files import find_images
    from fullyconv.layout import some
    from fullyconv.predict_files import predict_files
    from fullyconv.progress import Console
    from fullyconv.rules import read_rules
    from fullyconv.vectors import Vectors

    if threads is not None:
        set_threads(threads)
    console = Console()
    images = find_images(inputs)
    example = next(iter(images.values())) if computing["engine"] == "auto" else None
    predictor = open_predictor(model, **computing, example=example, progress=console)
    if options["verify-tiling"]:
        _verify(predictor, images.values())
        return
    folder = Path(_named(out))
    rules = options["rules"]
    judged = read_rules(rules, predictor.class_table) if rules is not None else None
    kinds = {name: options[name] for name in ("geojson", "coco", "areas")}
    vectors = Vectors(folder, predictor.class_table, **kinds, rules=judged)
    vectors.refuse_existing(images)
    wanted = vectors if any(kinds.values()) or rules else None
    written = predict_files(predictor, images, folder, **outputs, vectors=wanted, progress=console)
    console.say(f"{written} masks in {folder}")
    if vectors.failed:
        raise FullyConvError(f"{len(vectors.failed)} of {written} images fail the rules: {some(vectors.failed)}")


def _on_cluster(
    model: Path, inputs: list[str], out: str, cluster: str, workers: int | None, settings: Mapping[str, Any]
) -> None:
    """Predict by several processes."""
    from fullyconv.predict_cluster import predict_on_cluster
    from fullyconv.predict_work import PredictSettings
    from fullyconv.progress import Console

    console = Console()
    chosen = PredictSettings(**settings)
    done = predict_on_cluster(model, inputs, out, chosen, cluster=cluster, workers=workers, progress=console)
    console.say(f"{done} masks in {out}")


def _named(out: str | None) -> str:
    if out is None:
        raise UsageError("expected a folder for the masks, got none", hint="name it with -o DIR")
    return out


def _verify(predictor: "Predictor", images: Iterable[Path]) -> None:
    """Say for each image whether its tiles give the mask of the whole."""
    from fullyconv.verify import verify_tiling

    reports = [(path, verify_tiling(predictor, predictor.image_form.read(path))) for path in images]
    for path, report in reports:
        sys.stdout.write(f"{show_path(path)}: {report}\n")
    wrong = [path for path, report in reports if not report.exact]
    if wrong:
        raise FullyConvError(f"{show_path(wrong[0])}: the tiles differ from the whole image")
