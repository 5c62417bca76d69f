"""Hugging Face `datasets`, as `save_to_disk` leaves them: Arrow tables with a column of images and one of masks.

The folder of a `DatasetDict` has dataset_dict.json and a folder for each split; that of a `Dataset` state.json and
dataset_info.json (github.com/huggingface/datasets). Reading needs pyarrow, writing the library: extra `datasets`.
"""

import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image as PillowImage

from fullyconv.class_table import ClassTable
from fullyconv.embedded import open_table
from fullyconv.errors import DataError, UsageError, show_path
from fullyconv.formats.documents import read_json, understood
from fullyconv.formats.labels import write_classes
from fullyconv.formats.written import Labelled, image_bytes, image_suffix, masked_values
from fullyconv.layout import SPLIT_NAMES, Layout, Sample, ordered

__all__ = ["find_hugging_face", "read_hugging_face", "write_hugging_face"]

_SPLITS, _STATE, _ID = "dataset_dict.json", "state.json", "id"
_IMAGE_NAMES = ("image", "pixel_values", "img", "images")
_MASK_NAMES = ("annotation", "label", "mask", "labels", "segmentation_mask", "semantic_segmentation", "annotated")
_SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}


def find_hugging_face(root: Path) -> Path | None:
    """dataset_dict.json or state.json of a folder; None if it has neither."""
    return next((path for name in (_SPLITS, _STATE) if (path := root / name).is_file()), None)


def read_hugging_face(root: Path) -> Layout:
    """Find the rows of all splits.

    Raises:
        DataError: A file is damaged, or there are not two columns of images of which one is called as masks are.
        UsageError: The extra is not installed.
    """
    samples: list[Sample] = []
    names = ""
    for split, folder in _folders(root).items():
        rows, names = _rows(folder, split)
        samples += rows
    return Layout(ordered(samples), description=f"columns {names} of Hugging Face datasets")


def _folders(root: Path) -> Mapping[str | None, Path]:
    file = root / _SPLITS
    if not file.is_file():
        return {None: root}
    with understood(show_path(file), "splits with their names"):
        found = {str(name): root / str(name) for name in read_json(file, "a dataset_dict.json")["splits"]}
    unknown = [name for name in found if name not in SPLIT_NAMES]
    if unknown:
        raise DataError(
            f"{show_path(file)}: expected splits train, validation, test, got {show_path(unknown[0])}",
            hint="save the splits that you want under these names",
        )
    return {SPLIT_NAMES[name]: folder for name, folder in found.items()}


def _rows(folder: Path, split: str | None) -> tuple[list[Sample], str]:
    """The samples of a split, and the names of its columns."""
    state = folder / _STATE
    with understood(show_path(state), "the names of the files of a table"):
        listed = [str(item["filename"]) for item in read_json(state, "a state.json")["_data_files"]]
    if any(Path(name).name != name for name in listed):
        raise DataError(f"{show_path(state)}: expected names of files beside it, got {show_path(listed[0])}")
    files = [folder / name for name in listed]
    if not files:
        raise DataError(f"{show_path(state)}: expected a table with rows, got none")
    image, mask = _columns(open_table(files[0]), files[0])
    samples: list[Sample] = []
    for file in files:
        table = open_table(file)
        paths = [_names(table, column, file) for column in (image, mask)]
        ids = _strings(table) or [_id(name) for name, _ in paths[0]]
        for row, names in enumerate(zip(*paths, strict=True)):
            found = [
                _beside(file, name, row, column) if is_alone else file / str(row) / column
                for (name, is_alone), column in zip(names, (image, mask), strict=True)
            ]
            samples.append(Sample(ids[row], found[0], found[1], split))
    if len({sample.id for sample in samples} - {""}) < len(samples):
        samples = [Sample(f"{place:06}", s.image, s.mask, s.split) for place, s in enumerate(samples)]
    return samples, f"{image} + {mask}"


def _beside(file: Path, name: str, row: int, column: str) -> Path:
    """A file that a table names and does not hold, which has to lie in the folder of the data set.

    Raises:
        DataError: There is no name, or it leads elsewhere.
    """
    folder = file.parent.parent if (file.parent.parent / _SPLITS).is_file() else file.parent
    path = folder / name  # of an absolute name that one
    if not name or "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{show_path(file)}, row {row}, column {column}: expected the bytes of an image or a file in "
            f"{show_path(folder)}, got {show_path(name) or 'nothing'}",
            hint="save_to_disk writes the bytes of images that were decoded; or copy the files into the folder",
        )
    return path


def _strings(table: Any) -> list[str]:
    """The names in a column of names; none if there is no such column."""
    if _ID not in table.column_names:
        return []
    try:
        names = table.column(_ID).to_pylist()
    except ValueError:  # text that is none
        return []
    return [_id(f"{name}.x") for name in names] if all(isinstance(name, str) for name in names) else []


def _id(name: str) -> str:
    """A sample's name: that of its file, with the folders in it unless they lead out of a folder."""
    path = PurePosixPath("".join(sign for sign in name if sign.isprintable()).replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts
    return (path.stem if outside else path.with_suffix("").as_posix()) if path.name else ""


def _columns(table: Any, file: Path) -> tuple[str, str]:
    """The columns of images and of masks."""
    with understood(show_path(file), "the features of a data set"):
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {str(name): kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    found = [name for name, kind in kinds.items() if kind == "Image"]
    masks = [name for name in found if name.casefold() in _MASK_NAMES]
    images = [name for name in found if name.casefold() in _IMAGE_NAMES]
    if len(found) == 2 and (len(masks) == 1 or len(images) == 1):
        mask = masks[0] if masks else next(name for name in found if name not in images)
        return next(name for name in found if name != mask), mask
    raise DataError(
        f"{show_path(file)}: expected a column of images and one of masks, got {', '.join(kinds) or 'none'}",
        hint="keep two columns of type Image and call them image and annotation",
    )


def _names(table: Any, column: str, file: Path) -> list[tuple[str, bool]]:
    """What each file of a column is called, and whether it lies beside the table and not in it."""
    with understood(show_path(file), f"bytes and paths in column {column}"):
        struct = table.column(column).combine_chunks()
        has_bytes = struct.field("bytes").is_valid().to_pylist()
        paths = struct.field("path").to_pylist()
    return [(str(path or ""), not there) for path, there in zip(paths, has_bytes, strict=True)]


def write_hugging_face(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write columns image and annotation with the library, images byte for byte, and classes.txt.

    Raises:
        UsageError: The extra is not installed.
    """
    if find_spec("datasets") is None:
        raise UsageError("datasets is not installed", hint='install it with: pip install "fullyconv[datasets]"')
    library = import_module("datasets")
    values = dict(enumerate(range(table.num_classes)))
    library.disable_progress_bars()
    kinds = {"image": library.Image(), "annotation": library.Image(), _ID: library.Value("string")}
    features = library.Features(kinds)
    written: list[tuple[str, int]] = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as working:
        writers: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for sample, target in items:
            split = _SPLIT_NAMES.get(sample.split or "", "")
            if split not in writers:
                place = Path(working, f"{split}.arrow")
                writers[split] = library.arrow_writer.ArrowWriter(features=features, path=str(place))
            image = {"bytes": image_bytes(sample.image), "path": f"{sample.id}{image_suffix(sample.image)}"}
            mask = {"bytes": _png(masked_values(target, values)), "path": f"{sample.id}.png"}
            writers[split].write({"image": image, "annotation": mask, _ID: sample.id})
            written.append((split, counts.setdefault(split, 0)))
            counts[split] += 1
        for writer in writers.values():
            writer.finalize()
        parts = {name: library.Dataset.from_file(str(Path(working, f"{name}.arrow"))) for name in writers}
        whole = parts[""] if set(parts) == {""} else library.DatasetDict(parts)
        whole.save_to_disk(str(folder), num_proc=1)
        del whole, parts
    write_classes(folder, table, values)
    return [_row(folder / split, number) for split, number in written]


def _row(folder: Path, number: int) -> Path:
    """The image of a row that was written."""
    for item in read_json(folder / _STATE, "a state.json")["_data_files"]:
        file = folder / str(item["filename"])
        rows = open_table(file).num_rows
        if number < rows:
            return file / str(number) / "image"
        number -= rows
    raise DataError(f"{show_path(folder)}: expected more rows")


def _png(values: Any) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(values).save(file, "PNG")
    return file.getvalue()
