"""Generated data -> train -> evaluate -> predict, with words."""

from pathlib import Path

from fullyconv.charts import confusion_figure
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.evaluate import evaluate
from fullyconv.pictures import save_picture
from fullyconv.predict import Predictor, find_images, predict_files
from fullyconv.progress import Progress
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

__all__ = ["demo"]


def demo(out: Path, progress: Progress) -> None:
    """Show the whole way on a drawn inspection data set.

    Args:
        out: The folder to fill: `data/`, the files of a run, `predictions/`.
        progress: Where to report.

    Raises:
        UsageError: The folder is there already.
    """
    if out.exists():
        raise UsageError(f"{out} is there already", hint="remove it, or give another folder with -o")
    progress.say(
        "1. Drawing an inspection data set: metal surfaces with scratches, pits, stains and inclusions."
    )
    write_dataset(out / "data", train=80, val=20, test=20, size=(256, 256), seed=0)
    dataset = Dataset.open(out / "data")
    progress.say("2. Training: the encoder's features are computed once, then only the decoder learns.")
    result = train(dataset, out / "run", recipe(), progress=progress)
    progress.say("3. Measuring on test images that training never saw.")
    predictor = Predictor(result.model)
    report = evaluate(predictor, dataset.split("test"), progress=progress)
    save_picture(confusion_figure(report.counts, predictor.class_table.names), out / "confusion.png")
    progress.say(report.table())
    progress.say("4. Predicting masks and overlays of the test images.")
    images = find_images([str(out / "data" / "images" / "test")])
    predict_files(predictor, images, out / "predictions", overlay=True, progress=progress)
    progress.say(
        f"Look at {out}/run/validation.png, {out}/run/curves.png, {out}/confusion.png and {out}/predictions.\n"
        "Your own images: put them into DATA/images and their masks, with the same names, into DATA/masks, then\n"
        "    fullyconv train DATA -o runs/mine\n"
        "    fullyconv evaluate runs/mine/best.safetensors DATA\n"
        "    fullyconv predict runs/mine/best.safetensors PHOTOS -o masks"
    )
