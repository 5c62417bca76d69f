"""Data sets with one thing wrong each, and the words in which that has to be said."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fullyconv.synthetic import write_dataset

SIZE = (64, 96)


@dataclass(frozen=True)
class Broken:
    """A way in which a data set is broken.

    Attributes:
        spoil: Does it to a folder with images/{train,val}, masks/{train,val} and classes.txt.
        words: What `check` has to say; of `train`, too, where it has to refuse.
        level: Of the finding: "error", "warning" or "note".
        refused: Whether `train` refuses it before the first epoch.
    """

    spoil: Callable[[Path], None]
    words: str
    level: str = "error"
    refused: bool = True


def make(folder: Path, name: str) -> Path:
    """Write a small sound data set and break it in the way of a name."""
    write_dataset(folder, train=4, val=2, test=0, size=SIZE, seed=0)
    BROKEN[name].spoil(folder)
    return folder


def _mask(folder: Path, split: str = "train") -> Path:
    return sorted((folder / "masks" / split).iterdir())[0]


def _image(folder: Path, split: str = "train") -> Path:
    return sorted((folder / "images" / split).iterdir())[0]


def _masks(folder: Path) -> list[Path]:
    return sorted(folder.glob("masks/*/*"))


def _unknown_value(folder: Path) -> None:
    values = np.array(Image.open(_mask(folder)))
    values[3, 5] = 77
    Image.fromarray(values).save(_mask(folder))


def _other_size(folder: Path) -> None:
    Image.new("L", (40, 30)).save(_mask(folder))


def _turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.open(_image(folder)).save(_image(folder), exif=exif)


def _jpeg_masks(folder: Path) -> None:
    for mask in _masks(folder):
        values = np.array(Image.open(mask))
        Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8)).save(mask.with_suffix(".jpg"), quality=80)
        mask.unlink()
    (folder / "classes.txt").unlink()


def _resized_masks(folder: Path) -> None:
    for mask in _masks(folder):
        values = np.where(np.array(Image.open(mask)) > 0, 255, 0).astype(np.uint8)
        smooth = Image.fromarray(values).resize((30, 20)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        smooth.save(mask)
    (folder / "classes.txt").unlink()


def _colours(folder: Path) -> None:
    for mask in _masks(folder):
        Image.open(mask).convert("P").convert("RGB").save(mask)
        values = np.zeros((*SIZE, 3), np.uint8)
        values[:20] = (200, 30, 10)
        Image.fromarray(values).save(mask)
    (folder / "classes.txt").unlink()


def _float_mask(folder: Path) -> None:
    Image.new("F", SIZE[::-1]).save(_mask(folder).with_suffix(".tif"))
    _mask(folder).unlink()


def _large_value(folder: Path) -> None:
    Image.fromarray(np.full(SIZE, 300, np.uint16)).save(_mask(folder))


def _all(value: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for mask in _masks(folder):
            Image.fromarray(np.full(SIZE, value, np.uint8)).save(mask)

    return spoil


def _cut(folder: Path) -> None:
    data = _image(folder).read_bytes()
    _image(folder).write_bytes(data[: len(data) // 2])


def _text(folder: Path) -> None:
    _image(folder).write_text("<html>404 Not Found</html>")


def _same_stem(folder: Path) -> None:
    Image.open(_image(folder)).save(_image(folder).with_suffix(".bmp"))


def _leak(folder: Path) -> None:
    for kind in (_image, _mask):
        kind(folder, "val").write_bytes(kind(folder, "train").read_bytes())


def _near_copy(folder: Path) -> None:
    image = Image.open(_image(folder)).convert("RGB")
    image.save(_image(folder, "val").with_suffix(".jpg"), quality=90)
    _image(folder, "val").with_suffix(".png").unlink()
    _mask(folder, "val").write_bytes(_mask(folder).read_bytes())


def _only_in_val(folder: Path) -> None:
    for mask in (folder / "masks/train").iterdir():
        values = np.array(Image.open(mask))
        Image.fromarray(np.where(values == 2, 0, values).astype(np.uint8)).save(mask)
    values = np.array(Image.open(_mask(folder, "val")))
    values[10:30, 10:30] = 2
    Image.fromarray(values).save(_mask(folder, "val"))


def _dark(folder: Path) -> None:
    for image in folder.glob("images/*/*"):
        grey = np.array(Image.open(image).convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(image)


BROKEN: dict[str, Broken] = {
    "a value that is no class": Broken(_unknown_value, "77"),
    "a mask of another size": Broken(_other_size, "expected the size of"),
    "an image turned by EXIF, its mask not": Broken(_turned, "one of the two is turned"),
    "an image without mask": Broken(lambda folder: _mask(folder).unlink(), "have no mask"),
    "a mask without image": Broken(lambda folder: _image(folder).unlink(), "have no image"),
    "masks in JPEG": Broken(_jpeg_masks, "expected a mask in a lossless format, got JPEG"),
    "masks that were resized smoothly": Broken(_resized_masks, "resized or compressed"),
    "colours without a table": Broken(_colours, "got an RGB mask with colour"),
    "a float mask": Broken(_float_mask, "mode F"),
    "a mask value above 255": Broken(_large_value, "expected mask values 0..255, got 300"),
    "all pixels ignored": Broken(_all(255), "ignored"),
    "one class alone": Broken(_all(0), "two classes"),
    "an image that is cut short": Broken(_cut, "cannot read the image"),
    "text that is called .png": Broken(_text, "expected an image"),
    "two files of one stem": Broken(_same_stem, "two files have the stem"),
    "one image in two splits": Broken(_leak, "are in two splits", refused=False),
    "a near copy in another split": Broken(_near_copy, "look nearly like", "warning", refused=False),
    "a class that train never has": Broken(_only_in_val, "that train never has", "warning", refused=False),
    "12 bits in 16": Broken(_dark, "--value-range 0,", "warning", refused=False),
}
"""By what is wrong, in words."""
