"""fullyconv <verb>: the command line.

The package is imported inside the commands, so that `--help` answers without importing torch. Options of `train`
are made from `TrainConfig`, those of `pretrain` from `PretrainConfig`. Everything for people goes to standard
error; standard output holds results only.
"""

import inspect
import json
import os
import signal
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fullyconv import __version__
from fullyconv.config import (
    RECIPES,
    PretrainConfig,
    TrainConfig,
    config_from_mapping,
    pretrain_config,
    read_config,
)
from fullyconv.errors import FullyConvError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="fullyconv",
    help="Semantic segmentation with fully convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Show or empty the feature cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, such as RUN/best.safetensors.")]
Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A folder with images/ and masks/, or a list of pairs.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="Of the encoder: auto, float32 or bfloat16.")]


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failure), 2 (usage or data), 130 or 143."""
    # Threads that wait for each other by spinning take the processor from the one they wait for as soon as another
    # program runs. Sleeping costs nothing on an idle machine. It has to be said before torch loads OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)  # typer returns the code of an Exit, and 130 after Ctrl-C
    except FullyConvError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except _click_exception() as error:
        error.show()
        sys.exit(2)
    if code == 130:
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: object) -> NoReturn:
    sys.exit(143)


def _click_exception() -> type[Any]:
    # typer brings its own copy of click's exceptions in some releases.
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fullyconv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Semantic segmentation with fully convolutional networks."""


def _with_options(config: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**options` one option for each field of its settings."""
    return lambda command: _with_options_of(config, command)


def _with_options_of(config: type[Any], command: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(command)
    hints = typing.get_type_hints(config, include_extras=True)
    options = []
    for field in fields(config):
        kind, info = typing.get_args(hints[field.name])[:2]
        flag = "--" + field.name.replace("_", "-")
        default = None if field.default is MISSING else field.default
        if kind is bool:
            annotation: Any = bool | None
            option = typer.Option(f"{flag}/--no-{flag[2:]}", help=info.description, show_default=_shown(default))
        else:
            annotation = str | None
            option = typer.Option(
                flag, help=info.description, metavar=_metavar(kind), show_default=_shown(default)
            )
        options.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[annotation, option],
            )
        )
    plain = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*plain, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*plain, *options)}
    return command


def _shown(default: object) -> str | bool:
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default) or False
    if isinstance(default, bool):
        return "on" if default else "off"
    return False if default is None else str(default)


def _metavar(kind: Any) -> str:
    parts = [inner for part in typing.get_args(kind) for inner in (part, *typing.get_args(part))]
    choices = [choice for choice in parts if isinstance(choice, str | int)]
    if choices:
        return "|".join(map(str, choices))
    if typing.get_origin(kind) is tuple:
        return "N,N,..."
    names = {int: "N", float: "X"}
    members = [member for member in (typing.get_args(kind) or (kind,)) if member in names]
    return names[members[0]] if members else "TEXT"


def _parse(config: type[Any], name: str, value: str | bool) -> Any:
    """Turn an option's text into what the settings take; pydantic checks the range."""
    kind = typing.get_args(typing.get_type_hints(config, include_extras=True)[name])[0]
    if isinstance(value, bool):
        return value
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    choices = typing.get_args(kind)
    return (
        int(value) if choices and all(isinstance(choice, int) for choice in choices) and value.isdigit() else value
    )


def _settings(
    config: type[Any], options: dict[str, Any], file: Path | None, run: Path, resume: bool, **elsewhere: bool
) -> tuple[dict[str, Any], str]:
    """Put the options that were given over a file of settings; a run that goes on has its own and no others.

    Returns:
        The values, not yet validated, and the file that they come from, for messages.
    """
    given = {name: _parse(config, name, value) for name, value in options.items() if value is not None}
    if resume:
        refused = [
            *given,
            *(name for name, is_given in elsewhere.items() if is_given),
            *(["config"] if file else []),
        ]
        if refused:
            option = refused[0].replace("_", "-")
            raise UsageError(f"--resume goes on with the settings of {run}, got --{option}", hint="leave it out")
        file = run / "config.toml" if (run / "config.toml").exists() else None
    return {**(read_config(file) if file else {}), **given}, str(file or "")


@app.command()
@_with_options(TrainConfig)
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
    cache: Annotated[bool, typer.Option(help="Keep features on disk.")] = True,
    **options: Any,
) -> None:
    """Train a model on a folder of images and masks."""
    from fullyconv.dataset import Dataset
    from fullyconv.progress import Console
    from fullyconv.run_folder import next_run_folder
    from fullyconv.train import train as run_training

    if resume and out is None:
        raise UsageError("--resume needs the run folder to go on with", hint="give it with -o RUN")
    folder = out or next_run_folder(data)
    elsewhere = {"recipe": recipe != "default", "from": start_from is not None}
    values, source = _settings(TrainConfig, options, config, folder, resume, **elsewhere)
    settings = config_from_mapping(values, base=recipe, source=source)
    console = Console()
    if settings.encoder_weights == "none":
        console.say(f"WARNING: encoder {settings.encoder} is RANDOM (--encoder-weights none): expect poor masks")
    dataset = Dataset.open(data, classes=settings.classes, ignore=settings.ignore)
    result = run_training(
        dataset, folder, settings, resume=resume, start_from=start_from, use_cache=cache, progress=console
    )
    console.say(f"best val mean IoU {result.report.mean_iou:.4f}; the model is {result.model}")
    console.say(f"next: fullyconv predict {result.model} IMAGES -o masks")


@app.command()
@_with_options(PretrainConfig)
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
    values, source = _settings(PretrainConfig, options, config, folder, resume)
    console = Console()
    result = run_pretraining(
        images, folder, pretrain_config(values, source=source), resume=resume, progress=console
    )
    console.say(f"held-out MSE {result.val_mse:.5f}; the autoencoder is {result.cae}")
    console.say(f"next: fullyconv train DATA --encoder cae:{result.cae}, or with --decoder cae, too")


@app.command()
def evaluate(
    model: Model,
    data: Data,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all.", show_default="test, else val, else all")
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write the confusion matrix as a picture.")
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure a model on a data set: the four metrics, and each class."""
    from fullyconv.charts import confusion_figure
    from fullyconv.dataset import Dataset
    from fullyconv.evaluate import choose_split
    from fullyconv.evaluate import evaluate as run_evaluation
    from fullyconv.pictures import save_picture
    from fullyconv.predict import Predictor
    from fullyconv.progress import Console

    console = Console()
    predictor = Predictor(model, device=device, precision=precision)
    dataset = Dataset.open(data, class_table=predictor.class_table)
    chosen = dataset if split == "all" else choose_split(dataset, split)
    for note in dataset.notes:
        console.say(note)
    measured = next(iter(chosen.splits)) if len(chosen.splits) == 1 else "all"
    console.say(f"measuring {len(chosen)} images ({measured})")
    if split is None and measured not in ("test", "val"):
        console.say(
            "WARNING: there is no test or val split: images that the model was trained on may be among them"
        )
    report = run_evaluation(predictor, chosen, progress=console)
    if matrix is not None:
        save_picture(confusion_figure(report.counts, predictor.class_table.names), matrix)
    if as_json:
        sys.stdout.write(json.dumps({**report.to_json(), "split": measured}, allow_nan=False) + "\n")
    else:
        sys.stdout.write(report.table() + "\n")


@app.command()
def predict(
    model: Model,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, folders or globs.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where masks and overlays go.")],
    overlay: Annotated[bool, typer.Option(help="Write an overlay with a legend beside each mask.")] = True,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write class probabilities as C x H x W float16 .npz, too."),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Predict masks of images."""
    from fullyconv.predict import Predictor, find_images, predict_files
    from fullyconv.progress import Console

    console = Console()
    predictor = Predictor(model, device=device, precision=precision)
    images = find_images(inputs)
    written = predict_files(predictor, images, out, overlay=overlay, probabilities=probabilities, progress=console)
    console.say(f"{written} masks in {out}")


@app.command()
def info(model: Model, as_json: Json = False) -> None:
    """Describe a model file."""
    from fullyconv.model import describe
    from fullyconv.model_file import read_description

    description = read_description(model)
    if as_json:
        sys.stdout.write(json.dumps(description, allow_nan=False) + "\n")
    else:
        sys.stdout.write(describe(description) + "\n")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where data and run go.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Draw an inspection data set, train on it, measure, predict, and say what to type next."""
    from fullyconv.demo import demo as run_demo
    from fullyconv.progress import Console

    run_demo(out, Console())


@cache_app.command("info")
def cache_info(as_json: Json = False) -> None:
    """Say where the feature cache is and what it holds."""
    from fullyconv.feature_cache import FeatureCache

    found = FeatureCache().info()
    if as_json:
        values = {
            "folder": str(found.folder),
            "entries": found.entries,
            "bytes": found.bytes,
            "limit": found.limit,
        }
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        sys.stdout.write(
            f"{found.folder}: {found.entries} entries, "
            f"{found.bytes / 1e9:.2f} GB of at most {found.limit / 1e9:.2f} GB\n"
        )


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove all cached features; they are computed anew when needed."""
    from fullyconv.feature_cache import FeatureCache

    removed = FeatureCache().clear()
    sys.stdout.write(f"removed {removed.entries} entries, {removed.bytes / 1e9:.2f} GB\n")
