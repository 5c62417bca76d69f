"""Generated data -> train -> evaluate -> predict, with words."""

import itertools
from pathlib import Path

from fullyconv.charts import confusion_figure
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.evaluate import evaluate
from fullyconv.image_files import find_images
from fullyconv.pictures import save_picture
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.progress import Progress
from fullyconv.shapes import Size
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

__all__ = ["demo", "next_demo_folder"]


def next_demo_folder(parent: Path = Path("runs")) -> Path:
    """Return `runs/demo`, or the first of `runs/demo-2`, `runs/demo-3`, ... that is free, its data folder too."""
    names = itertools.chain(["demo"], (f"demo-{number}" for number in itertools.count(2)))
    folders = (parent / name for name in names)
    return next(folder for folder in folders if not folder.exists() and not _data_folder(folder).exists())


def _data_folder(run: Path) -> Path:
    return run.with_name(f"{run.name}-data")


def demo(
    out: Path,
    progress: Progress,
    *,
    config: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
    images: tuple[int, int, int] = (80, 20, 20),
    size: Size = (256, 256),
) -> None:
    """Show the whole way on a drawn inspection data set.

    Args:
        out: The run folder; `predictions/` and `confusion.png` are added to it. The data go to `<out>-data`.
        progress: Where to report.
        config: The settings of the training.
        images: How many images to draw for train, val and test.
        size: (height, width) of the images in pixels.

    Raises:
        UsageError: One of the folders is there already.
    """
    data = _data_folder(out)
    for folder in (out, data):
        if folder.exists():
            raise UsageError(f"{folder} is there already", hint="remove it, or give another folder with -o")
    progress.say("1. Drawing an inspection data set: metal surfaces with scratches, pits, stains and inclusions.")
    write_dataset(data, train=images[0], val=images[1], test=images[2], size=size, seed=0)
    dataset = Dataset.open(data)
    progress.say("2. Training: the encoder's features are computed once, then only the decoder learns.")
    result = train(dataset, out, config, progress=progress)
    progress.say("3. Measuring on test images that training never saw.")
    predictor = Predictor(result.model)
    report = evaluate(predictor, dataset.split("test"), progress=progress)
    save_picture(confusion_figure(report.counts, predictor.class_table.names), out / "confusion.png")
    progress.say(report.table())
    progress.say("4. Predicting masks and overlays of the test images.")
    found = find_images([str(data / "images" / "test")])
    predict_files(predictor, found, out / "predictions", overlay=True, progress=progress)
    progress.say(
        f"Look at {out}/validation.png, {out}/curves.png, {out}/confusion.png and {out}/predictions.\n"
        "Your own images: put them into DATA/images and their masks, with the same names, into DATA/masks, then\n"
        "    fullyconv train DATA -o runs/mine\n"
        "    fullyconv evaluate runs/mine/best.safetensors DATA\n"
        "    fullyconv predict runs/mine/best.safetensors PHOTOS -o masks"
    )
