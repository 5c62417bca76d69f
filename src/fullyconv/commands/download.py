"""fullyconv download."""

import sys
import typing
from pathlib import Path
from typing import Annotated

import typer

if typing.TYPE_CHECKING:
    from fullyconv.published import PublishedSet

__all__ = ["download"]


def download(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A data set; without it, list them.", show_default="list them"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="To make.", show_default="data/NAME")
    ] = None,
    archives: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where archives are kept.", show_default="archives/ beside the data set"
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: the archives have to be there.")
    ] = False,
) -> None:
    """Download a published data set: resumed, checked, unpacked and ready to train on."""
    from fullyconv.errors import UsageError
    from fullyconv.fetch import archives_beside, fetch_dataset
    from fullyconv.progress import Console
    from fullyconv.published import PUBLISHED, published_set

    if name is None:
        if out or archives or offline:
            raise UsageError("expected the name of a data set with these options", hint="fullyconv download")
        sys.stdout.write("\n".join(_listed(found) for found in PUBLISHED.values()) + "\n")
        return
    wanted, folder, console = published_set(name), out or Path("data", name), Console()
    console.say(f"{name}: {wanted.title}; {wanted.splits}")
    console.say(f"terms: {wanted.terms}")
    if fetch_dataset(name, folder, archives=archives, offline=offline, progress=console):
        kept = archives or archives_beside(folder)
        console.say(f"the archives stay in {kept}: remove them if you need the room")
    ignore = "".join(f" --ignore {value}" for value in wanted.ignore)
    console.say(f"next: fullyconv check {folder}{ignore}; fullyconv train {folder}{ignore} -o runs/{name}")
    sys.stdout.write(f"{folder}\n")


def _listed(found: "PublishedSet") -> str:
    """A data set in four lines."""
    sizes = [archive.size for archive in found.archives]
    total = sum(size or 0 for size in sizes) / 1e6
    size = f"{total:,.0f} MB" if all(sizes) else f"more than {total:,.0f} MB" if total else "size not stated"
    lines = [f"{found.name:<12} {found.title}", found.splits, f"download: {size}", f"terms: {found.terms}"]
    return "\n             ".join(lines) + "\n"
