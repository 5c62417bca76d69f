"""fullyconv check."""

import json
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.commands.arguments import Channels, Classes, Data, Json, ValueRange, image_form
from fullyconv.errors import DataError, UsageError

if typing.TYPE_CHECKING:
    from fullyconv.findings import Examination
    from fullyconv.progress import Console

__all__ = ["check"]


def check(
    data: Data,
    classes: Classes = None,
    ignore: Annotated[
        list[int] | None, typer.Option(metavar="VALUE", help="Mask values that are no class.")
    ] = None,
    channels: Channels = 3,
    value_range: ValueRange = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with a contact sheet.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write what can be read or mended to a new folder, as images and masks."
        ),
    ] = None,
    cost: Annotated[bool, typer.Option(help="Say what reading the features will take.")] = True,
    as_json: Json = False,
) -> None:
    """Look at every image and mask before training, and say what is wrong: the exit code is 2 if anything is."""
    from fullyconv.convert import refuse_inside
    from fullyconv.dataset import Dataset
    from fullyconv.findings import examine
    from fullyconv.mend import guessed_table, mask_files
    from fullyconv.progress import Console

    console = Console()
    faults: list[DataError] = []
    for path in (page, fix):
        if path is not None and path.exists():
            raise UsageError(f"{path} exists already", hint="choose another name")
    if fix is not None:
        refuse_inside(fix, data)
    try:
        form = image_form(channels, value_range)
        options: dict[str, Any] = {"image_form": form, "faults": faults}
        try:
            dataset = Dataset.open(data, classes=classes, ignore=ignore or (), **options)
        except DataError as error:
            table = guessed_table(mask_files(data)) if classes is None and fix is not None else None
            if table is None:
                raise
            console.say(f"error: {error}")
            console.say(f"taken for classes: the values {', '.join(map(str, table.values))}")
            faults.clear()
            dataset = Dataset.open(data, class_table=table, **options)
    except DataError as error:
        if as_json:
            finding = {"level": "error", "kind": "layout", "text": str(error), "files": []}
            sys.stdout.write(json.dumps({"samples": 0, "findings": [finding]}) + "\n")
        raise
    for note in dataset.notes:
        console.say(note)
    examination = examine(dataset, faults, progress=console)
    extra = [_cost(examination)] if cost and examination.errors == 0 else []
    if page is not None:
        _write_page(examination, extra, page)
    if as_json:
        sys.stdout.write(json.dumps(examination.to_json(), allow_nan=False) + "\n")
    else:
        _print(examination, extra)
    if fix is not None:
        _fix(examination, fix, console)
    if examination.errors:
        raise typer.Exit(2)


def _fix(examination: "Examination", folder: Path, console: "Console") -> None:
    """Write what can be read, and masks that can be mended."""
    from fullyconv.convert import convert
    from fullyconv.mend import mend

    broken = [sample for sample in examination.dataset if sample not in set(examination.sound)]
    mended = mend(examination.dataset, broken)
    if mended is not None:
        console.say(
            f"{mended.count} masks are snapped to the values of classes; {mended.ignored} of their pixels lie "
            "between two and are ignored"
        )
    done = convert(mended.dataset if mended else examination.sound, folder, progress=console)
    console.say(f"{done.samples} of {len(examination.dataset)} samples are in {folder}")


def _print(examination: "Examination", extra: list[str]) -> None:
    for name, summary in examination.summaries.items():
        sys.stdout.write("\n".join([f"{name}: {summary.lines()[0]}", *summary.lines()[1:], ""]))
        sys.stdout.write("\n")
    for line in [*map(str, examination.findings), *extra]:
        sys.stdout.write(f"{line}\n")
    if not examination.findings:
        sys.stdout.write("nothing is wrong\n")


def _cost(examination: "Examination") -> str:
    from fullyconv.config import recipe
    from fullyconv.forecast import forecast

    sound, form = examination.sound, examination.dataset.image_form
    learned = sound.split("train") if sound.has_split("train") else sound
    measured = sound.split("val") if sound.has_split("val") else None
    settings = recipe(channels=form.channels, value_range=form.value_range or ())
    return f"default recipe: {forecast(learned, measured, settings)}"


def _write_page(examination: "Examination", extra: list[str], path: Path) -> None:
    from fullyconv.atomic import atomic_path
    from fullyconv.check_page import check_page

    with atomic_path(path, overwrite=False) as temporary:
        temporary.write_text(check_page(examination, extra), encoding="utf-8")
