"""nnU-Net: imagesTr/CASE_0000.png, labelsTr/CASE.png, imagesTs, labelsTs, dataset.json and splits_final.json.

The raw format of github.com/MIC-DKFZ/nnUNet (documentation/dataset_format.md), for images of one file: `labels`
gives the value of each class and of "ignore"; the first fold of `splits_final.json` is train and val.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fullyconv.class_table import ClassEntry, ClassTable, default_color
from fullyconv.errors import DataError
from fullyconv.formats.documents import read_json, understood, write_json
from fullyconv.formats.written import Labelled, flat_names, write_values
from fullyconv.images import read_image, show_path, write_image
from fullyconv.layout import KnownClasses, Layout, Sample, by_stem, image_files, ordered, some

__all__ = ["find_nnunet", "read_nnunet", "write_nnunet"]

_CHANNEL = "_0000"
_IGNORE = "ignore"


def find_nnunet(root: Path) -> Path | None:
    """imagesTr/ of a folder; None if it has none."""
    folder = root / "imagesTr"
    return folder if folder.is_dir() else None


def read_nnunet(root: Path) -> Layout:
    """Pair the images of imagesTr/ with labelsTr/, and of imagesTs/ with labelsTs/ where that is there.

    Raises:
        DataError: A file is missing, or an image has several channels in files of their own.
    """
    layout = Layout(classes=_classes(root / "dataset.json"))
    split_of = _splits(root / "splits_final.json")
    samples: list[Sample] = []
    for kind, split in (("Tr", "train"), ("Ts", "test")):
        masks = root / f"labels{kind}"
        if not masks.is_dir():
            if kind == "Tr":
                raise DataError(f"{show_path(root)}: expected labelsTr/ beside imagesTr/, got none")
            continue
        folder = root / f"images{kind}"
        image_of = by_stem(image_files(folder, layout.skipped), folder)
        mask_of = by_stem(image_files(masks, layout.skipped), masks)
        others = [stem for stem in image_of if not stem.endswith(_CHANNEL)]
        if others:
            raise DataError(
                f"{show_path(image_of[others[0]])}: expected images CASE{_CHANNEL} of one file each, got another",
                hint="channels in files of their own (_0001, ...) are not read",
            )
        cases = {stem.removesuffix(_CHANNEL): image for stem, image in image_of.items()}
        alone = sorted(set(cases) ^ set(mask_of))
        if alone:
            raise DataError(
                f"{show_path(root)}: {len(alone)} cases have an image or a label map alone in images{kind} and "
                f"labels{kind}: {some(alone)}",
                hint="add what is missing, or remove the other",
            )
        samples += [Sample(case, cases[case], mask_of[case], split_of.get(case, split)) for case in cases]
    layout.samples = ordered(samples)
    layout.description = "imagesTr + labelsTr of nnU-Net"
    return layout


def _classes(path: Path) -> KnownClasses:
    with understood(show_path(path), "labels with a value for each name"):
        labels = read_json(path, "nnU-Net's dataset.json")["labels"]
        if any(isinstance(value, list) for value in labels.values()):
            raise DataError(f"{show_path(path)}: expected one value for each label, got regions of several")
        value_of = {str(name): int(value) for name, value in labels.items()}
    ignored = tuple(value for name, value in value_of.items() if name == _IGNORE)
    found = sorted((value, name) for name, value in value_of.items() if name != _IGNORE)
    known = tuple(ClassEntry(name, value, default_color(value)) for value, name in found)
    return KnownClasses(known, "dataset.json", ignored=ignored)


def _splits(path: Path) -> Mapping[str, str]:
    """The split of each case in the first fold."""
    if not path.is_file():
        return {}
    with understood(show_path(path), "a list of folds with train and val"):
        first = read_json(path, "nnU-Net's splits_final.json")[0]
        return {str(case): split for split in ("train", "val") for case in first[split]}


def write_nnunet(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write all images as PNG, which nnU-Net wants of one kind, and label maps with the values 0, 1, 2, ...

    nnU-Net calls the class of value 0 background, whatever it was called.
    """
    values = dict(enumerate(range(table.num_classes)))
    ignored = table.num_classes
    images, training = [], 0
    folds: dict[str, list[str]] = {"train": [], "val": []}
    name_of = flat_names()
    for sample, target in items:
        name = name_of(sample)
        kind = "Ts" if sample.split == "test" else "Tr"
        training += kind == "Tr"
        path = folder / f"images{kind}" / f"{name}{_CHANNEL}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, read_image(sample.image))
        images.append(path)
        write_values(folder / f"labels{kind}" / f"{name}.png", target, table, values, ignored)
        if sample.split in folds:
            folds[sample.split].append(name)
    labels = {name: index for index, name in enumerate(table.names)} | {_IGNORE: ignored}
    document: dict[str, Any] = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": labels,
        "numTraining": training,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    write_json(folder / "dataset.json", document)
    if folds["val"]:
        write_json(folder / "splits_final.json", [folds])
    return images
