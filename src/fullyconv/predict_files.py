"""Predict image files: each output is there whole or not at all, and no large image is in memory whole.

Images up to `LARGE` pixels are read ahead and their masks written behind. Larger ones, and those with a place on
the Earth, are read part by part while their mask is written (`fullyconv.sources`).
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.array_file import is_item
from fullyconv.atomic import atomic_path, remove_stale_temporaries
from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError, show_path
from fullyconv.image_form import shown
from fullyconv.images import write_image, write_mask
from fullyconv.lecture import FIGURES, lecture_figures
from fullyconv.memory import available_bytes, shown_bytes
from fullyconv.pictures import overlay as draw_overlay
from fullyconv.pictures import save_picture, with_legend
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Image, Mask, Pixels
from fullyconv.sources import open_image, read_header
from fullyconv.sources.reduced import Reduced
from fullyconv.tiles import Box
from fullyconv.vectors import Vectors

__all__ = ["predict_files"]

LARGE = 16_000_000
"""Pixels from which on an image is read part by part."""

GREYS = {value: (value, value, value) for value in range(256)}


@dataclass(frozen=True)
class _Outputs:
    """What is written of an image beside its mask."""

    overlay: bool
    probabilities: bool
    measures: tuple[str, ...]
    lecture: bool

    def endings(self, suffix: str) -> list[str]:
        """Of the names of these files, for a mask with a suffix."""
        found = ["_overlay.png"] * self.overlay + ["_probabilities.npz"] * self.probabilities
        found += [f"_{measure}{suffix}" for measure in self.measures]
        return found + [f"{name}.png" for name in FIGURES] * self.lecture


@dataclass(frozen=True)
class _Prediction:
    """What is known of an image: H x W class indices, H x W measures by name, C x H x W probabilities."""

    mask: Mask
    measured: Mapping[str, npt.NDArray[np.float32]]
    probabilities: npt.NDArray[np.float16] | None


def predict_files(
    predictor: Predictor,
    images: Mapping[str, Path],
    out: Path,
    *,
    overlay: bool = True,
    probabilities: bool = False,
    confidence: bool = False,
    margin: bool = False,
    lecture: bool = False,
    vectors: Vectors | None = None,
    progress: Progress | None = None,
) -> int:
    """Predict masks of image files and write them.

    Args:
        predictor: The model.
        images: Output names and files, from `find_images`.
        out: The folder for `NAME.png` (palette PNG of mask values), `NAME_overlay.png` and, where asked for,
            `NAME_probabilities.npz` (C x H x W float16 as `probabilities`, class names as `classes`). The mask
            of a large TIFF or of a GeoTIFF is `NAME.tif`: tiled, with a pyramid.
        overlay: Write overlays; those of images above 16 megapixels with 4,096 pixels on the longer side.
        probabilities: Write probabilities.
        confidence: Write `NAME_confidence.png`, or `.tif` like the mask: the probability of the class that the
            mask shows, 0..255 for 0..1.
        margin: Write `NAME_margin.png`, or `.tif` like the mask: how far the second best class is behind:
            1 - its probability / that of the best class, which is 1 - exp(-margin of logits); 0..255 for 0..1.
        lecture: Write the lecture's figures, `NAME_lecture_maps.png`, `NAME_lecture_mask.png` and
            `NAME_lecture_overlay.png`.
        vectors: Write outlines and areas, too; each mask has to fit into memory then.
        progress: Where to report.

    Returns:
        The number of masks written.

    Raises:
        UsageError: A file to be written is there already, or probabilities are asked for of an image for which
            there is not enough memory; nothing is written then.
        DataError: An image cannot be read. Nothing is written then, unless it is a large one with damaged pixels:
            then nothing of this one, and of those behind it.
    """
    progress = progress or Silent()
    measures = ("confidence",) * confidence + ("margin",) * margin
    outputs = _Outputs(overlay, probabilities, measures, lecture)
    by_parts = _check(predictor, images, out, outputs, progress)
    remove_stale_temporaries(out)
    _predict_all(predictor, images, out, outputs, by_parts, vectors, progress)
    if vectors is not None:
        vectors.finish()
    return len(images)


def _predict_all(
    predictor: Predictor,
    images: Mapping[str, Path],
    out: Path,
    outputs: _Outputs,
    by_parts: Mapping[str, bool],
    vectors: Vectors | None,
    progress: Progress,
) -> None:
    """Predict one image after the other; while one is computed, the next is read and the one before is written."""
    names = list(images)

    def read(name: str) -> Pixels | None:
        return None if by_parts[name] else predictor.image_form.read(images[name])

    with (
        progress.track("predicting", len(images)) as step,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        ahead = [reader.submit(read, name) for name in names[:1]]
        behind: list[Future[None]] = []
        for place, name in enumerate(names):
            image = ahead.pop().result()
            if image is None:
                _predict_by_parts(predictor, images[name], out / name, outputs, vectors, name)
            ahead += [reader.submit(read, following) for following in names[place + 1 : place + 2]]
            if image is not None:
                found = _predict(predictor, image, outputs)
                for written in behind:
                    written.result()
                behind = [writer.submit(_write, out / name, image, found, predictor.class_table, outputs)]
                if vectors is not None:
                    vectors.add(name, images[name], found.mask)
            step()
        for written in behind:
            written.result()


def _check(
    predictor: Predictor, images: Mapping[str, Path], out: Path, outputs: _Outputs, progress: Progress
) -> dict[str, bool]:
    """Refuse what cannot go well before anything is written; say of each image whether it is read by parts."""
    headers = {name: read_header(path, predictor.image_form) for name, path in images.items()}
    by_parts = {
        name: header.place_kept or (math.prod(header.size) > LARGE and not is_item(images[name]))
        for name, header in headers.items()
    }
    for name, header in headers.items():
        suffix = header.mask_suffix if by_parts[name] else ".png"
        for ending in (suffix, *outputs.endings(suffix)):
            if (there := _named(out / name, ending)).exists():
                raise UsageError(f"{there} is there already", hint="choose another folder with -o")
        needed = math.prod(header.size) * (predictor.class_table.num_classes * 6 + 16)
        if (outputs.probabilities or outputs.lecture) and by_parts[name] and needed > (free := available_bytes()):
            raise UsageError(
                f"the probabilities of {show_path(images[name])} take {shown_bytes(needed)} of memory, there are "
                f"{shown_bytes(free)}",
                hint="leave them out, or ask for --confidence",
            )
    lost = [name for name, header in headers.items() if header.placed and not header.place_kept]
    if lost:
        progress.say(
            f"{show_path(images[lost[0]])} is a GeoTIFF: to keep its place on the Earth, "
            'pip install "fullyconv[geo]"'
        )
    blended = [name for name, header in headers.items() if not predictor.is_exact(header.size)]
    if blended:
        progress.say(
            f"WARNING: this model may see the whole image, and {len(blended)} images are too large for that: "
            "overlapping tiles of them are blended, which is not exact; allow more with --memory"
        )
    for name, path in images.items():
        if not by_parts[name]:
            predictor.image_form.verify(path)
    return by_parts


def _predict(predictor: Predictor, image: Pixels, outputs: _Outputs) -> _Prediction:
    probabilities = predictor.probabilities(image).astype(np.float16) if outputs.probabilities else None
    return _Prediction(*predictor.predict_measured(image, outputs.measures), probabilities)


def _write(base: Path, image: Pixels, found: _Prediction, table: ClassTable, outputs: _Outputs) -> None:
    """Write what is known of an image to files whose names begin with `base`."""
    base.parent.mkdir(parents=True, exist_ok=True)
    write_mask(_named(base, ".png"), table.encode(found.mask), _palette(table))
    for measure, values in found.measured.items():
        write_mask(_named(base, f"_{measure}.png"), _in_bytes(measure, values), GREYS)
    if outputs.overlay:
        _write_overlay(base, shown(image), found.mask, table)
    _write_arrays(base, shown(image), found, table, outputs)


def _write_arrays(base: Path, image: Image, found: _Prediction, table: ClassTable, outputs: _Outputs) -> None:
    """Write what needs the whole image in memory."""
    if outputs.lecture:
        for ending, figure in lecture_figures(image, found.mask, table).items():
            write_image(_named(base, f"{ending}.png"), figure)
    if found.probabilities is not None:
        with atomic_path(_named(base, "_probabilities.npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probabilities=found.probabilities, classes=np.array(table.names))


def _predict_by_parts(
    predictor: Predictor, path: Path, base: Path, outputs: _Outputs, vectors: Vectors | None, name: str
) -> None:
    """Predict an image while it is read and its mask is written."""
    table = predictor.class_table
    base.parent.mkdir(parents=True, exist_ok=True)
    with open_image(path, predictor.image_form) as source, ExitStack() as stack:
        spools = {
            measure: stack.enter_context(tempfile.TemporaryFile(dir=base.parent)) for measure in outputs.measures
        }
        look = Reduced(source.size) if outputs.overlay else None
        whole = np.empty(source.size, np.uint8) if vectors is not None else None

        def read(box: Box) -> Pixels:
            pixels = source.read(box)
            if look is not None:
                look.add_image(box, shown(pixels))
            return pixels

        def parts() -> Iterator[tuple[Box, Mask]]:
            for box, mask, measured in predictor.measured_parts(source.size, read, outputs.measures):
                for measure, values in measured.items():
                    spools[measure].write(_in_bytes(measure, values).tobytes())
                boxes.append(box)
                yield box, seen(box, mask)

        def seen(box: Box, mask: Mask) -> Mask:
            if look is not None:
                look.add_mask(box, mask)
            if whole is not None:
                whole[box.slices] = mask
            return table.encode(mask)

        boxes: list[Box] = []
        if outputs.probabilities or outputs.lecture:
            image = source.read(Box(0, 0, *source.size))
            found = _predict(predictor, image, replace(outputs, measures=()))
            _write_arrays(base, shown(image), found, table, outputs)
        source.write_mask(_named(base, source.mask_suffix), parts(), _palette(table))
        if look is not None:
            _write_overlay(base, look.image, look.mask, table)
        if whole is not None and vectors is not None:
            vectors.add(name, path, whole, source.place)
        for measure, spool in spools.items():
            spool.seek(0)
            grey = (
                (box, np.frombuffer(spool.read(math.prod(box.size)), np.uint8).reshape(box.size)) for box in boxes
            )
            source.write_mask(_named(base, f"_{measure}{source.mask_suffix}"), grey, GREYS)


def _write_overlay(base: Path, image: Image, mask: Mask, table: ClassTable) -> None:
    picture = with_legend(draw_overlay(image, mask, table), table, np.unique(mask).tolist())
    save_picture(picture, _named(base, "_overlay.png"))


def _palette(table: ClassTable) -> dict[int, tuple[int, int, int]]:
    return {entry.value: entry.color for entry in table.classes}


def _in_bytes(measure: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A measure as greys: a confidence as it is; a margin, which has no end, as 1 - exp(-margin)."""
    return np.rint((-np.expm1(-values) if measure == "margin" else values) * 255).astype(np.uint8)


def _named(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)
