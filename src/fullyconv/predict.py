"""The predictor: an image of any size in, its mask out."""

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from glob import glob
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from fullyconv.array_file import ARRAY_SUFFIX, image_items
from fullyconv.atomic import atomic_path
from fullyconv.class_table import ClassTable
from fullyconv.device import choose_device, choose_precision
from fullyconv.errors import UsageError
from fullyconv.images import IMAGE_SUFFIXES, read_image, to_rgb, verify_image, write_image, write_mask
from fullyconv.lecture import FIGURES, lecture_figures
from fullyconv.memory import available_bytes, peak_bytes, shown_bytes
from fullyconv.model import FCN
from fullyconv.model_file import load_model
from fullyconv.pictures import overlay as draw_overlay
from fullyconv.pictures import save_picture, to_look_at, with_legend
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Image, Logits, Mask, Size
from fullyconv.sizes import padded_size
from fullyconv.tiles import Box, Tile, cut, largest_sides
from fullyconv.upsample import predict_mask, upsample_logits

__all__ = ["Predictor", "find_images", "predict_files"]

FREE_PIXELS = 1_000_000
"""Of an image that is never cut, whatever the memory: so much is there, or nothing works."""

PROBED_SIDE = 256
"""Of the window on which the memory is measured."""


class Predictor:
    """Predict masks with a model. What evaluates, serves or exports needs to know no more of a model than this.

    An image that needs more memory than allowed is cut into tiles, each computed with the halo that it needs: the
    mask is the same (`docs/concepts/exactness.md`).

    Args:
        model: A model, or the path of a model file.
        device: "auto", "cpu", "cuda" or "mps".
        precision: In which the encoder computes: "auto", "float32" or "bfloat16".
        memory: Bytes that the features of one window may take, by default half of what is available. Images up to
            a megapixel are never cut.
        tile: Side of the tiles in pixels, where it is not to be chosen by memory.

    Raises:
        ModelFileError: The file is not a model file, or is damaged.
    """

    def __init__(
        self,
        model: FCN | str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: int | None = None,
        tile: int | None = None,
    ) -> None:
        self.model = model if isinstance(model, FCN) else load_model(Path(model))
        self.device = choose_device(device)
        self.model.to(self.device).eval()
        self.model.encoder.set_precision(choose_precision(precision, self.device))
        self.class_table = self.model.class_table
        self.memory = available_bytes() // 2 if memory is None else memory
        self.tile = tile

    def predict(self, image: str | Path | PillowImage.Image | Image) -> Mask:
        """Predict the class of every pixel.

        Args:
            image: A path, a PIL image, or an H x W x 3 uint8 RGB array.

        Returns:
            H x W uint8 class indices.

        Raises:
            UsageError: Not even the smallest tile fits into the memory that is allowed.
        """
        pixels = as_rgb(image)
        mask = np.empty(pixels.shape[:2], np.uint8)
        for tile in self.tiles(pixels.shape[:2]):
            mask[tile.area.slices] = self.predict_tile(pixels[tile.window.slices], tile)
        return mask

    def predict_tile(self, window: Image, tile: Tile) -> Mask:
        """Predict the mask of a tile's area from the pixels of its window."""
        logits, inner = self._around(self.logits(window), tile)
        mask = predict_mask(logits, self.model.decoder.output_stride, (inner.bottom, inner.right))[0]
        return mask[inner.slices].cpu().numpy()

    def probabilities(self, image: str | Path | PillowImage.Image | Image) -> npt.NDArray[np.float32]:
        """Predict the probability of every class at every pixel: C x H x W float32, sums of 1 over C."""
        pixels = as_rgb(image)
        size = pixels.shape[:2]
        probabilities = np.empty((self.class_table.num_classes, *size), np.float32)
        for tile in self.tiles(size):
            logits, inner = self._around(self.logits(pixels[tile.window.slices]), tile)
            logits = upsample_logits(logits, self.model.decoder.output_stride, (inner.bottom, inner.right))
            area = logits[0][(slice(None), *inner.slices)].softmax(dim=0)
            probabilities[(slice(None), *tile.area.slices)] = area.cpu().numpy()
        return probabilities

    def tiles(self, size: Size) -> list[Tile]:
        """Cut an image into what is computed at a time: all of it where the memory allows that."""
        sides = (self.tile, self.tile) if self.tile else self._affordable_sides(size)
        return cut(size, sides, self.model.halo, self.model.tile_grid)

    def _affordable_sides(self, size: Size) -> Size:
        if math.prod(size) <= FREE_PIXELS:
            return size
        pixels = int(self.memory / self.bytes_per_pixel)
        if math.prod(size) <= pixels:
            return size
        halo, grid = self.model.halo, self.model.tile_grid
        sides = largest_sides(size, pixels, halo, grid)
        if sides is None:
            least = (grid + halo.before + halo.after) ** 2 * self.bytes_per_pixel
            raise UsageError(
                f"{shown_bytes(self.memory)} of memory hold no tile of this model, "
                f"the smallest one takes {shown_bytes(int(least))}",
                hint="allow more with --memory",
            )
        return sides

    @cached_property
    def bytes_per_pixel(self) -> float:
        """Memory that features and logits take for each pixel of a window, measured on a small one."""
        side = padded_size((PROBED_SIDE, PROBED_SIDE), self.model.tile_grid)[0]
        window = np.zeros((side, side, 3), np.uint8)
        return peak_bytes(lambda: self.logits(window)) / side**2

    def _around(self, logits: Logits, tile: Tile) -> tuple[Logits, Box]:
        """Keep a window's logits that its area is interpolated from, and say where the area lies in them."""
        area, stride = tile.area.within(tile.window), self.model.decoder.output_stride
        top, left = max(area.top // stride - 1, 0), max(area.left // stride - 1, 0)
        bottom, right = -(-area.bottom // stride) + 1, -(-area.right // stride) + 1
        origin = Box(top * stride, left * stride, bottom * stride, right * stride)
        return logits[..., top:bottom, left:right], area.within(origin)

    @torch.no_grad()
    def logits(self, pixels: Image) -> Logits:
        """Compute 1 x C x h x w logits at the output stride, of an image or of a window in one piece."""
        images = torch.from_numpy(pixels.copy()).to(self.device).permute(2, 0, 1)[None]
        return self.model.logits(self.model.features(images), pixels.shape[:2])


def as_rgb(image: str | Path | PillowImage.Image | Image) -> Image:
    """Return an image given as a path, a PIL image or an array as an H x W x 3 uint8 RGB array.

    Raises:
        UsageError: An array of another shape or dtype.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, PillowImage.Image):
        return to_rgb(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(
            f"an image array has to be H x W x 3 uint8 RGB, got {' x '.join(map(str, image.shape))} {image.dtype}",
            hint="scale to 0..255 and convert with .astype('uint8')",
        )
    return image


def find_images(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Find images among files, folders and globs.

    Args:
        inputs: Files are taken as they are, of `.npy` arrays each image; of folders (with their subfolders) and
            globs the images.

    Returns:
        For each image the name of its outputs: its path within the folder that was given, without suffix, made
        unique where two would collide.

    Raises:
        UsageError: An input that matches nothing, or no image in a folder.
        DataError: A `.npy` file that is no array of images.
    """
    found: list[tuple[str, Path]] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            images = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if _is_image(file)]
        elif path.suffix.lower() == ARRAY_SUFFIX and path.exists():
            items = image_items(path)
            digits = len(str(len(items) - 1))
            images = [(Path(path.stem, file.name.zfill(digits)), file) for file in items]
        elif path.exists():
            images = [(Path(path.name), path)]
        else:
            images = [
                (Path(Path(name).name), Path(name))
                for name in sorted(glob(str(item), recursive=True))  # noqa: PTH207 - absolute patterns, too
                if _is_image(Path(name))
            ]
        if not images:
            raise UsageError(
                f"no image found at {item}", hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        found += [(name.with_suffix("").as_posix(), file) for name, file in images]
    return _unique_names(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _unique_names(found: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Give each file a name of its own: its stem, then with its suffix, then with a number."""
    named: dict[str, Path] = {}
    taken: set[str] = set()
    seen: set[Path] = set()
    for name, path in found:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        candidates = itertools.chain(
            [name, f"{name}_{path.suffix[1:].lower()}"], (f"{name}_{number}" for number in itertools.count(2))
        )
        # Folded, since the folder may be on a disk that does not tell A.png from a.png.
        name = next(name for name in candidates if not _outputs(name) & taken)
        taken |= _outputs(name)
        named[name] = path
    return named


def _outputs(name: str) -> set[str]:
    return {f"{name}{ending}".casefold() for ending in ("", "_overlay", "_probabilities", *FIGURES)}


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
