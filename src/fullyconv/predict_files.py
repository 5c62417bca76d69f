"""Predict image files: read ahead, write behind, each output whole or not at all."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.atomic import atomic_path
from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.images import read_image, verify_image, write_image, write_mask
from fullyconv.lecture import FIGURES, lecture_figures
from fullyconv.pictures import overlay as draw_overlay
from fullyconv.pictures import save_picture, to_look_at, with_legend
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Image, Mask

__all__ = ["predict_files"]


def predict_files(
    predictor: Predictor,
    images: Mapping[str, Path],
    out: Path,
    *,
    overlay: bool = True,
    probabilities: bool = False,
    lecture: bool = False,
    progress: Progress | None = None,
) -> int:
    """Predict masks of image files and write them.

    Args:
        predictor: The model.
        images: Output names and files, from `find_images`.
        out: The folder for `NAME.png` (palette PNG of mask values), `NAME_overlay.png` and, where asked for,
            `NAME_probabilities.npz` (C x H x W float16 as `probabilities`, class names as `classes`).
        overlay: Write overlays; those of images above 16 megapixels with 4,096 pixels on the longer side.
        probabilities: Write probabilities.
        lecture: Write the lecture's figures, `NAME_lecture_maps.png`, `NAME_lecture_mask.png` and
            `NAME_lecture_overlay.png`.
        progress: Where to report.

    Returns:
        The number of masks written.

    Raises:
        UsageError: A file to be written is there already; nothing is written then.
        DataError: An image cannot be read; nothing is written then.
    """
    table = predictor.class_table
    suffixes = [".png"] + ["_overlay.png"] * overlay + ["_probabilities.npz"] * probabilities
    suffixes += [f"{name}.png" for name in FIGURES] * lecture
    for name in images:
        for suffix in suffixes:
            if (there := out / f"{name}{suffix}").exists():
                raise UsageError(f"{there} is there already", hint="choose another folder with -o")
    for path in images.values():
        verify_image(path)
    names = list(images)
    with (
        (progress or Silent()).track("predicting", len(images)) as step,
        # While one image is computed, the next is read and the one before is written.
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        ahead = [reader.submit(read_image, images[name]) for name in names[:1]]
        behind: list[Future[None]] = []
        for place, name in enumerate(names):
            image = ahead.pop().result()
            ahead += [reader.submit(read_image, images[following]) for following in names[place + 1 : place + 2]]
            mask = predictor.predict(image)
            values = predictor.probabilities(image).astype(np.float16) if probabilities else None
            for written in behind:
                written.result()
            behind = [
                writer.submit(_write, out / name, image, mask, values, table, overlay=overlay, lecture=lecture)
            ]
            step()
        for written in behind:
            written.result()
    return len(images)


def _write(
    base: Path,
    image: Image,
    mask: Mask,
    probabilities: npt.NDArray[np.float16] | None,
    table: ClassTable,
    *,
    overlay: bool,
    lecture: bool,
) -> None:
    """Write what is known of an image to files whose names begin with `base`."""
    base.parent.mkdir(parents=True, exist_ok=True)
    write_mask(_named(base, ".png"), table.encode(mask), {entry.value: entry.color for entry in table.classes})
    if overlay:
        picture = with_legend(draw_overlay(*to_look_at(image, mask), table), table, np.unique(mask).tolist())
        save_picture(picture, _named(base, "_overlay.png"))
    if lecture:
        for ending, figure in lecture_figures(image, mask, table).items():
            write_image(_named(base, f"{ending}.png"), figure)
    if probabilities is not None:
        with atomic_path(_named(base, "_probabilities.npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probabilities=probabilities, classes=np.array(table.names))


def _named(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)
