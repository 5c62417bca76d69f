"""fullyconv <verb>: the command line.

The package is imported inside the commands, so that `--help` answers without importing torch. Options that are
settings are made from their dataclass (`fullyconv.options`). Everything for people goes to standard error, and
standard output holds results only.
"""

import json
import os
import signal
import sys
import typing
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
)
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.options import parsed, parsed_size, run_settings, with_options

if typing.TYPE_CHECKING:
    from fullyconv.ablation import Ablation
    from fullyconv.dataset import Dataset
    from fullyconv.model import FCN
    from fullyconv.progress import Console
    from fullyconv.stages import Outline

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
    Path,
    typer.Argument(
        metavar="DATA", help="A folder with images/ and masks/, CamVid, PASCAL VOC, arrays, or a list of pairs."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="Of the encoder: auto, float32 or bfloat16.")]


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failure), 2 (usage or data), 130 or 143."""
    # Threads that wait for each other by spinning take the processor from the one they wait for as soon as another
    # program runs; to sleep at once doubles the time of a step. So: spin for a fraction of a millisecond, then
    # sleep. It has to be said before torch loads OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
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


@app.command()
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
    cache: Annotated[bool, typer.Option(help="Keep features on disk.")] = True,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: pretrained weights have to be on this machine.")
    ] = False,
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
    values, source = run_settings(TrainConfig, options, config, folder, resume, **elsewhere)
    settings = config_from_mapping(values, base=recipe, source=source)
    console = Console()
    if settings.encoder_weights == "none":
        console.say(f"WARNING: encoder {settings.encoder} is RANDOM (--encoder-weights none): expect poor masks")
    dataset = Dataset.open(data, classes=settings.classes, ignore=settings.ignore)
    result = run_training(
        dataset,
        folder,
        settings,
        resume=resume,
        start_from=start_from,
        use_cache=cache,
        offline=offline,
        progress=console,
    )
    console.say(f"best val mean IoU {result.report.mean_iou:.4f}; the model is {result.model}")
    console.say(f"next: fullyconv predict {result.model} IMAGES -o masks")


@app.command()
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
    from fullyconv.evaluate import evaluate as run_evaluation
    from fullyconv.pictures import save_picture
    from fullyconv.predict import Predictor
    from fullyconv.progress import Console

    console = Console()
    predictor = Predictor(model, device=device, precision=precision)
    dataset = Dataset.open(data, class_table=predictor.class_table)
    chosen, measured = _measured_split(dataset, split, predictor.model, console)
    report = run_evaluation(predictor, chosen, progress=console)
    if matrix is not None:
        save_picture(confusion_figure(report.counts, predictor.class_table.names), matrix)
    if as_json:
        sys.stdout.write(json.dumps({**report.to_json(), "split": measured}, allow_nan=False) + "\n")
    else:
        sys.stdout.write(report.table() + "\n")


def _measured_split(
    dataset: "Dataset", split: str | None, model: "FCN", console: "Console", most: int | None = None
) -> tuple["Dataset", str]:
    """Choose what to measure on, and say what was assumed, which split it is, and whether it was learned from."""
    from fullyconv.evaluate import choose_split

    chosen = choose_split(dataset, split, model.training_record)
    for note in dataset.notes:
        console.say(note)
    measured = next(iter(chosen.splits)) if len(chosen.splits) == 1 else "all"
    console.say(f"measuring {min(len(chosen), most or len(chosen))} images ({measured})")
    if split is None and measured not in ("test", "val"):
        console.say(
            "WARNING: there is no test or val split: images that the model was trained on may be among them; "
            "--split val measures those that its training held out"
        )
    return chosen, measured


@app.command()
def predict(
    model: Model,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, globs or .npy arrays.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where masks and overlays go.")],
    overlay: Annotated[bool, typer.Option(help="Write an overlay with a legend beside each mask.")] = True,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write class probabilities as C x H x W float16 .npz, too."),
    ] = False,
    lecture: Annotated[
        bool,
        typer.Option("--lecture", help="Write the lecture's figures, too: class maps, mask alone, pasted mask."),
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
    written = predict_files(
        predictor,
        images,
        out,
        overlay=overlay,
        probabilities=probabilities,
        lecture=lecture,
        progress=console,
    )
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
@with_options(TrainConfig, ("stride", "scales", "hidden", "upsampling", "fc", "width", "auxiliary"))
def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model file, or ENCODER+DECODER, such as vgg16+lecture: the network that train would build. "
            "--classes and the settings of training below shape the latter.",
        ),
    ],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Follow an image of this height and width through it.")
    ] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="The same for an image file.")] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="Number of classes of ENCODER+DECODER.", show_default="2")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FIGURE", help="Draw it: .png, .svg or .pdf; --data adds two more."),
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Draw it as it is built up: FIGURE_1, FIGURE_2, ...")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Measure what each stride of a model file contributes here."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all.", show_default="test, else val, else all")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="On how many images at most; drawn with seed 0.")] = 50,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Say what a network is made of, what becomes of an image's size in it, and draw it."""
    from fullyconv.diagrams import draw
    from fullyconv.explain import contribution_pictures, describe, figure_files, find_network, outline_of, sizes_of
    from fullyconv.images import image_size
    from fullyconv.pictures import save_picture

    if steps and out is None:
        raise UsageError("--steps needs a figure to draw", hint="name it with -o FIGURE.png")
    if size is not None and image is not None:
        raise UsageError("expected --size or --image, got both", hint="leave one out")
    network = find_network(model, classes, parsed(TrainConfig, options))
    outline = outline_of(network)
    pixels = image_size(image) if image else parsed_size(size) if size is not None else None
    sizes = sizes_of(outline, pixels) if pixels else None
    files = figure_files(out, outline, steps=steps, contributions=data is not None) if out else {}
    measured = _contributions(network, outline, data, split, images) if data else None
    pictures = contribution_pictures(measured, network.class_table) if measured else {}
    for what, file in files.items():
        save_picture(
            pictures[what] if what in pictures else draw(outline, sizes, int(what)), file, overwrite=False
        )
    if as_json:
        found = {**outline.to_json(), **({"sizes": sizes.to_json()} if sizes else {})}
        found |= {"contributions": measured.to_json()} if measured else {}
        sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")
    else:
        sys.stdout.write("\n\n".join([describe(outline, sizes), *([measured.table()] if measured else [])]) + "\n")


def _contributions(network: "FCN", outline: "Outline", data: Path, split: str | None, images: int) -> "Ablation":
    """Measure what each stride of a model contributes."""
    from fullyconv.ablation import measure_strides
    from fullyconv.dataset import Dataset
    from fullyconv.feature_cache import FeatureCache
    from fullyconv.predict import Predictor
    from fullyconv.progress import Console

    if any(parameter.is_meta for parameter in network.parameters()):
        raise UsageError("--data needs a trained model, got names", hint="give a model file instead")
    console = Console()
    dataset = Dataset.open(data, class_table=network.class_table)
    chosen, _ = _measured_split(dataset, split, network, console, images)
    return measure_strides(
        Predictor(network), outline, chosen, images=images, cache=FeatureCache(), progress=console
    )


@app.command()
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
