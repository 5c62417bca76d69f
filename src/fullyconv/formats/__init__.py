"""How data sets lie on disk, one file a format; which one there is, is found out here."""

from pathlib import Path

from fullyconv.errors import DataError
from fullyconv.formats import camvid, npy, voc
from fullyconv.formats.lists import read_list
from fullyconv.images import show_path
from fullyconv.layout import IMAGE_FOLDERS, MASK_FOLDERS, Layout, folder_named, read_folders

__all__ = ["find_samples"]


def find_samples(path: str | Path) -> Layout:
    """Find the pairs of images and masks of a data folder or a list file.

    Args:
        path: A folder with `images` and `masks` (train, val, test above or below them, or neither); CamVid as it
            comes with SegNet; PASCAL VOC; a folder with `images_training.npy` and `seg_training.npy`; or a text
            file with `image mask [split]` a line.

    Raises:
        DataError: Nothing is there, there are two layouts at once, a name is there twice, or an image or mask has
            no partner.
    """
    root = Path(path)
    try:
        if root.is_file():
            return read_list(root)
        if root.is_dir():
            return _read_folder(root)
    except OSError as error:
        raise DataError(f"{show_path(error.filename or root)}: cannot be read: {error.strerror}") from error
    raise DataError(
        f"{show_path(root)}: expected a data folder or a list of pairs, got nothing there",
        hint="a folder with images and masks, or a text file with `image mask [split]` a line",
    )


def _read_folder(root: Path) -> Layout:
    """Read a folder by the format whose mark it has; images/ and masks/ where it has none."""
    marks = {read: mark for find, read in _FORMATS if (mark := find(root)) is not None}
    usual = [folder for names in (IMAGE_FOLDERS, MASK_FOLDERS) if (folder := folder_named(root, names))]
    if not marks:
        return read_folders(root)
    found = [*marks.values(), *usual]
    if len(found) > 1:
        one, other = (show_path(mark.name) + "/" * mark.is_dir() for mark in found[:2])
        raise DataError(
            f"{show_path(root)}: expected one layout, got both {one} and {other}",
            hint="keep the files of one of the two here",
        )
    return next(iter(marks))(root)


_FORMATS = (
    (camvid.find_camvid, camvid.read_camvid),
    (voc.find_voc, voc.read_voc),
    (npy.find_npy, npy.read_npy),
)
"""For each format, what finds the file or folder that tells it apart, and what reads it."""
