"""How data sets lie on disk, one file a format; which one there is, is found out here."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from fullyconv.class_table import ClassTable
from fullyconv.errors import DataError
from fullyconv.formats import (
    ade20k,
    camvid,
    camvid_colors,
    cityscapes,
    coco,
    cvat,
    folders,
    hugging_face,
    label_studio,
    labelme,
    nnunet,
    npy,
    panoptic,
    voc,
    yolo,
)
from fullyconv.formats.lists import read_list
from fullyconv.formats.written import Labelled
from fullyconv.images import show_path
from fullyconv.layout import IMAGE_FOLDERS, MASK_FOLDERS, Layout, folder_named, read_folders

__all__ = ["WRITERS", "find_samples"]


def find_samples(path: str | Path, faults: list[DataError] | None = None) -> Layout:
    """Find the pairs of images and masks of a data folder or a list file.

    Args:
        path: A folder with `images` and `masks` (train, val, test above or below them, or neither), or of one of
            the formats in this package; one COCO file; or a text file with `image mask [split]` a line.
        faults: Takes note of files without a partner in a folder with images and masks, which are an error
            without it.

    Raises:
        DataError: Nothing is there, there are two layouts at once, a name is there twice, or an image or mask has
            no partner.
    """
    root = Path(path)
    try:
        if root.is_file():
            return coco.read_coco_file(root) if root.suffix.lower() == ".json" else read_list(root)
        if root.is_dir():
            return _read_folder(root, faults)
    except OSError as error:
        raise DataError(f"{show_path(error.filename or root)}: cannot be read: {error.strerror}") from error
    raise DataError(
        f"{show_path(root)}: expected a data folder or a list of pairs, got nothing there",
        hint="a folder with images and masks, or a text file with `image mask [split]` a line",
    )


def _read_folder(root: Path, faults: list[DataError] | None) -> Layout:
    """Read a folder by the format whose mark it has; images/ and masks/ where it has none."""
    marks = {read: mark for find, read in _FORMATS if (mark := find(root)) is not None}
    if not marks:
        return read_folders(root, faults)
    # Formats with annotation files have their images in images/, too.
    usual = [folder for names in (IMAGE_FOLDERS, MASK_FOLDERS) if (folder := folder_named(root, names))]
    if voc.read_voc in marks:
        usual = [folder for folder in usual if folder.name != "Annotations"]  # it has the boxes of VOC
    found = [*marks.values(), *(usual if set(marks) & _WITHOUT_IMAGES else ())]
    if len(found) > 1:
        one, other = (show_path(mark.name) + "/" * mark.is_dir() for mark in found[:2])
        raise DataError(
            f"{show_path(root)}: expected one layout, got both {one} and {other}",
            hint="keep the files of one of the two here",
        )
    return next(iter(marks))(root)


_FORMATS = (
    (coco.find_coco, coco.read_coco),
    (panoptic.find_panoptic, panoptic.read_panoptic),
    (labelme.find_labelme, labelme.read_labelme),
    (label_studio.find_label_studio, label_studio.read_label_studio),
    (yolo.find_yolo, yolo.read_yolo),
    (nnunet.find_nnunet, nnunet.read_nnunet),
    (cityscapes.find_cityscapes, cityscapes.read_cityscapes),
    (ade20k.find_ade20k, ade20k.read_ade20k),
    (cvat.find_cvat, cvat.read_cvat),
    (camvid.find_camvid, camvid.read_camvid),
    (voc.find_voc, voc.read_voc),
    (npy.find_npy, npy.read_npy),
    (hugging_face.find_hugging_face, hugging_face.read_hugging_face),
    (camvid_colors.find_camvid_colors, camvid_colors.read_camvid_colors),
)
"""For each format, what finds the file or folder that tells it apart, and what reads it."""

_WITHOUT_IMAGES = {
    camvid.read_camvid,
    camvid_colors.read_camvid_colors,
    hugging_face.read_hugging_face,
    npy.read_npy,
    voc.read_voc,
}
"""Formats that have no folder images/."""

Writer: TypeAlias = Callable[[Path, ClassTable, Iterable[Labelled]], list[Path]]
"""Fills an empty folder with samples of a class table; returns the image file made of each."""

WRITERS: dict[str, Writer] = {
    "folders": folders.write_folders,
    "coco": coco.write_coco,
    "panoptic": panoptic.write_panoptic,
    "labelme": labelme.write_labelme,
    "label-studio": label_studio.write_label_studio,
    "yolo": yolo.write_yolo,
    "nnunet": nnunet.write_nnunet,
    "voc": voc.write_voc,
    "cvat": cvat.write_cvat,
    "cityscapes": cityscapes.write_cityscapes,
    "ade20k": ade20k.write_ade20k,
    "camvid": camvid.write_camvid,
    "npy": npy.write_npy,
    "hugging-face": hugging_face.write_hugging_face,
}
"""By the name that `fullyconv convert --format` takes."""
