"""Images, masks and predictions as pictures to be looked at: overlays, legends, panels, class maps.

Pictures are H x W x 3 uint8 RGB arrays, dark text on white. The colours of classes come from the class table;
everything else is ink, grey and white. Charts of numbers are in `charts`.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PillowImage
from PIL import ImageDraw

from fullyconv.atomic import atomic_path
from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import UsageError
from fullyconv.images import show_path, write_image
from fullyconv.shapes import Image, Mask, Size
from fullyconv.sheets import (
    GAP,
    INK,
    LINE,
    PAPER,
    Cell,
    box_of,
    fitted,
    font_of,
    in_rows,
    shortened,
    stacked,
    zoom_of,
)

__all__ = [
    "IGNORED_NAME",
    "beside",
    "class_maps",
    "colorize",
    "difference",
    "overlay",
    "probability_picture",
    "reconstruction_panel",
    "save_picture",
    "sheet",
    "validation_panel",
    "with_legend",
]

IGNORED_NAME = "ignored"
"""What legends call pixels without a class."""

_HATCH = ((222, 222, 222), (190, 190, 190))  # of ignored pixels: light and dark stripes
_STRIPE = 3  # width of a stripe along the rows, in pixels
_NEARLY_BLACK = 64  # a class whose colour stays below this in all parts is not tinted in overlays
_STRIP = 512  # rows that are blended at a time
_MAPS_UP_TO = 4  # classes: with more, one binary map a class makes a panel too wide

_DATES = {"svg": "Date", "pdf": "CreationDate"}  # vector formats, and what matplotlib calls the time in them

_Row = tuple[Image, Mask, Mask]


def colorize(mask: Mask, table: ClassTable) -> Image:
    """Paint every class in its colour.

    Args:
        mask: H x W uint8 class indices, 255 = ignored.
        table: The classes.

    Returns:
        H x W x 3 uint8 RGB; ignored pixels are hatched in grey.

    Raises:
        UsageError: An index is not of this table.
    """
    _check_mask(mask, table)
    palette = np.zeros((256, 3), np.uint8)
    palette[: table.num_classes] = table.colors
    picture = palette[mask]
    ignored = mask == IGNORE_INDEX
    if ignored.any():
        picture[ignored] = _hatch(mask.shape)[ignored]
    return picture


def overlay(image: Image, mask: Mask, table: ClassTable, *, alpha: float = 0.5, border: int = 1) -> Image:
    """Lay the classes over an image, half transparent, with crisp borders.

    Borders are drawn in the pure colour of the class with the higher index, inside it. A class whose colour
    is nearly black, as backgrounds are by custom, leaves the image as it is, and so do ignored pixels.

    Args:
        image: H x W x 3 uint8 RGB.
        mask: H x W uint8 class indices, 255 = ignored.
        table: The classes.
        alpha: Opacity of the colours, 0..1.
        border: Width of the borders in pixels; 0 draws none.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        UsageError: Image and mask differ in size, or an index is not of this table.
    """
    _check_mask(mask, table)
    _check_same_size(image, mask)
    colors = np.zeros((256, 3), np.float32)
    colors[: table.num_classes] = table.colors
    opacity = np.zeros(256, np.float32)
    opacity[: table.num_classes] = np.where(table.colors.max(axis=1) < _NEARLY_BLACK, 0, alpha)
    picture = np.empty_like(image)
    for top in range(0, mask.shape[0], _STRIP):  # a whole image of floats could be too much
        rows, above = slice(top, top + _STRIP), max(top - border, 0)
        share = opacity[mask[rows]]
        if border:
            edges = _borders(mask[above : top + _STRIP + border], border)
            share[edges[top - above :][: len(share)]] = 1
        blend = image[rows] + (colors[mask[rows]] - image[rows]) * share[..., None]
        picture[rows] = blend + 0.5
    return picture


def _borders(mask: Mask, width: int) -> npt.NDArray[np.bool_]:
    """Where a pixel within a width, diagonals too, is of a class with a lower index; 255 is highest."""
    lowest = np.pad(mask, width, mode="edge")
    for _ in range(width):
        lowest = np.minimum(np.minimum(lowest[:-2], lowest[1:-1]), lowest[2:])
        lowest = np.minimum(np.minimum(lowest[:, :-2], lowest[:, 1:-1]), lowest[:, 2:])
    borders: npt.NDArray[np.bool_] = (lowest < mask) & (mask != IGNORE_INDEX)
    return borders


def with_legend(picture: Image, table: ClassTable, present: Iterable[int] | None = None) -> Image:
    """Put a legend under a picture: a swatch and the name of each class, on as many lines as it takes.

    The picture itself is not changed; where it is narrower than the legend, it is centred above it.

    Args:
        picture: H x W x 3 uint8 RGB.
        table: The classes.
        present: Class indices to name, 255 for ignored pixels; all classes if None.

    Returns:
        A larger picture. The legend's type grows with the width, so that it can be read when a large picture
        is shown small.
    """
    indices = range(table.num_classes) if present is None else sorted({int(index) for index in present})
    known = [index for index in indices if index < table.num_classes or index == IGNORE_INDEX]
    size = int(np.clip(round(picture.shape[1] / 45), 12, 48))
    strip = _legend(known, table, max(picture.shape[1], 18 * size), size)
    return stacked([picture, strip])


def _legend(indices: Sequence[int], table: ClassTable, width: int, size: int) -> Image:
    """A strip with swatches and names, `width` pixels wide."""
    font, gap, line = font_of(size), max(round(0.5 * size), GAP), round(1.7 * size)
    names = [table.names[i] if i < table.num_classes else IGNORED_NAME for i in indices]
    texts = [shortened(name, font, width - 2 * gap - round(1.5 * size)) for name in names]
    places, x, y = [], gap, gap
    for text in texts:
        taken = round(1.5 * size + font.getlength(text))
        if x > gap and x + taken > width - gap:
            x, y = gap, y + line
        places.append((x, y))
        x += taken + round(1.4 * size)
    canvas = PillowImage.new("RGB", (width, y + line + gap if texts else 1), PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, text, (left, top) in zip(indices, texts, places, strict=True):
        swatch = np.full((size, size), index, np.uint8)
        canvas.paste(PillowImage.fromarray(colorize(swatch, table)), (left, top + (line - size) // 2))
        box = (left, top + (line - size) // 2, left + size - 1, top + (line - size) // 2 + size - 1)
        pen.rectangle(box, outline=LINE)
        pen.text((left + round(1.5 * size), top + line // 2), text, INK, font, anchor="lm")
    return np.asarray(canvas)


def validation_panel(rows: Sequence[_Row], table: ClassTable) -> Image:
    """Show samples with what was learned from them: image, target, prediction and overlay, a row for each.

    With up to four classes, a binary map of the prediction follows for each class, as in the lecture.

    Args:
        rows: (image, target, prediction) of each sample: H x W x 3 uint8 RGB and two H x W uint8 masks of
            class indices, 255 = ignored. Sizes may differ from row to row.
        table: The classes.

    Returns:
        A picture about 1,600 pixels wide at most, with titles above the columns and a legend below.

    Raises:
        UsageError: There is no row, sizes differ within a row, or an index is not of this table.
    """
    if not rows:
        raise UsageError("expected at least one sample for a validation panel, got none")
    maps = table.num_classes if table.num_classes <= _MAPS_UP_TO else 0
    box = box_of(4 + maps)
    cells: list[list[Cell]] = []
    for number, (image, target, prediction) in enumerate(rows):
        _check_same_size(image, target)
        zoom = zoom_of(image.shape[:2], box)
        shown = [
            ("image", fitted(image, zoom)),
            ("target", fitted(colorize(target, table), zoom)),
            ("prediction", fitted(colorize(prediction, table), zoom)),
            ("overlay", fitted(overlay(image, prediction, table, border=max(1, round(1 / zoom))), zoom)),
        ]
        shown += [(table.names[i], fitted(_binary(prediction == i), zoom)) for i in range(maps)]
        cells.append([(title if number == 0 else "", picture) for title, picture in shown])
    counts = sum(np.bincount(mask.ravel(), minlength=256) for row in rows for mask in row[1:])
    present = np.flatnonzero(counts).tolist()
    sheet = in_rows(cells)
    return stacked([sheet, _legend(present, table, sheet.shape[1], 14)])


def reconstruction_panel(rows: Mapping[str, Sequence[Image]]) -> Image:
    """Show images above what became of them: the lecture's picture of an autoencoder.

    Args:
        rows: For each title, such as "input" and "reconstruction", as many H x W x 3 uint8 RGB images as for the
            others; those below each other have one size.

    Returns:
        A picture about 1,600 pixels wide at most, a row for each title.

    Raises:
        UsageError: There is no image.
    """
    number = len(next(iter(rows.values()), ()))
    if not number:
        raise UsageError("expected at least one image for a panel of reconstructions, got none")
    box = box_of(number)
    zooms = [zoom_of(image.shape[:2], box) for image in next(iter(rows.values()))]
    return in_rows(
        [
            [
                ("" if column else title, fitted(image, zoom))
                for column, (image, zoom) in enumerate(zip(images, zooms, strict=True))
            ]
            for title, images in rows.items()
        ]
    )


def class_maps(image: Image, mask: Mask, table: ClassTable, *, columns: int = 6) -> Image:
    """Show an image and one binary map for each class, white where the class is: the lecture's slide 10.

    Args:
        image: H x W x 3 uint8 RGB.
        mask: H x W uint8 class indices, 255 = ignored, which is black in every map.
        table: The classes.
        columns: Most cells in a row; 1 stacks them, as the lecture does.

    Returns:
        A picture with titled cells.

    Raises:
        UsageError: Image and mask differ in size, or an index is not of this table.
    """
    _check_mask(mask, table)
    _check_same_size(image, mask)
    columns = min(table.num_classes + 1, columns)
    zoom = zoom_of(image.shape[:2], box_of(columns))
    cells = [("image", fitted(image, zoom))]
    cells += [(name, fitted(_binary(mask == i), zoom)) for i, name in enumerate(table.names)]
    return in_rows([cells[start : start + columns] for start in range(0, len(cells), columns)])


def probability_picture(probabilities: npt.NDArray[np.floating]) -> Image:
    """Paint probabilities from white (0) through blue to nearly black (1).

    Args:
        probabilities: H x W float, 0..1, such as the winning class's.

    Returns:
        H x W x 3 uint8 RGB; lightness falls evenly, so that it reads the same without colour.
    """
    stops = np.array([0, 0.35, 0.7, 1])
    ramp = np.array([(255, 255, 255), (158, 202, 225), (33, 113, 181), (8, 29, 68)], np.float64)
    values = np.nan_to_num(np.asarray(probabilities, np.float64)).clip(0, 1)
    planes = [np.interp(values, stops, channel) for channel in ramp.T]
    return np.asarray(np.stack(planes, axis=-1) + 0.5).astype(np.uint8)


def sheet(rows: Sequence[Sequence[tuple[str, Image]]], table: ClassTable) -> Image:
    """Show pictures in rows and columns, the titles of the first row above, a legend of all classes below.

    Args:
        rows: As many (title, H x W x 3 uint8 RGB) in each; those of a row have one size.
        table: The classes.
    """
    cells: list[list[Cell]] = []
    for row in rows:
        zoom = zoom_of(row[0][1].shape[:2], box_of(len(row)))
        cells.append([("" if cells else title, fitted(picture, zoom)) for title, picture in row])
    picture = in_rows(cells)
    return stacked([picture, _legend(range(table.num_classes), table, picture.shape[1], 14)])


def save_picture(picture: Image | PillowImage.Image | Figure, path: str | Path, *, overwrite: bool = True) -> None:
    """Write a picture; it appears whole or not at all.

    Args:
        picture: H x W x 3 uint8 RGB, a Pillow image or a matplotlib figure. Equal pictures give equal files:
            no times or versions are written.
        path: Where to; its folder must exist. A PNG, but a figure may be .svg or .pdf.
        overwrite: Whether an older one is replaced.

    Raises:
        UsageError: The file cannot be written, or is there already and `overwrite` is False.
    """
    if isinstance(picture, Figure) and (kind := Path(path).suffix.lower()[1:]) in _DATES:
        try:
            # The salt makes the identifiers in an SVG the same every time.
            with atomic_path(path, overwrite=overwrite) as temporary, rc_context({"svg.hashsalt": "fullyconv"}):
                picture.savefig(temporary, format=kind, metadata={_DATES[kind]: None})
        except OSError as error:
            raise UsageError(f"{show_path(path)}: cannot write the figure: {error.strerror or error}") from error
        return
    if isinstance(picture, Figure):
        canvas = FigureCanvasAgg(picture)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a class name in a script it does not have
            canvas.draw()  # type: ignore[no-untyped-call]
        picture = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    if isinstance(picture, PillowImage.Image):
        picture = np.asarray(picture.convert("RGB"))
    write_image(path, picture, overwrite=overwrite)


def _binary(where: npt.NDArray[np.bool_]) -> Image:
    return np.repeat(np.where(where, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)


def _hatch(size: Size) -> Image:
    """Diagonal stripes of two greys."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    stripes: Image = np.array(_HATCH, np.uint8)[(rows + columns) // _STRIPE % 2]
    return stripes


def _check_mask(mask: Mask, table: ClassTable) -> None:
    wrong = (mask >= table.num_classes) & (mask != IGNORE_INDEX)
    if wrong.any():
        raise UsageError(
            f"expected class indices 0..{table.num_classes - 1} or {IGNORE_INDEX}, got {int(mask[wrong][0])}"
        )


def _check_same_size(image: Image, mask: Mask) -> None:
    if image.shape[:2] != mask.shape:
        sizes = " and ".join(f"{array.shape[0]} x {array.shape[1]}" for array in (image, mask))
        raise UsageError(f"expected an image and a mask of one size, got {sizes}")


def difference(image: Image, target: Mask, prediction: Mask) -> Image:
    """Show where a prediction is wrong: the image in pale grey, mistakes in red, ignored pixels darker."""
    grey = np.asarray(PillowImage.fromarray(image).convert("L"), np.float32)
    pale = np.repeat((160 + grey * 0.37)[..., None], 3, axis=2)
    ignored = target == IGNORE_INDEX
    pale[ignored] *= 0.6
    pale[~ignored & (target != prediction)] = (200, 30, 30)
    return pale.astype(np.uint8)


def beside(pictures: Sequence[Image], width: int) -> Image:
    """Put pictures of one size into a row of so many pixels."""
    box = (width - GAP * (len(pictures) - 1)) // len(pictures)
    small = [fitted(picture, box / picture.shape[1]) for picture in pictures]
    spaced = [np.pad(picture, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for picture in small]
    return np.concatenate(spaced, axis=1)[:, :-GAP]
