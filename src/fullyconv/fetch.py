"""A published data set: archives downloaded, checked, unpacked and arranged into a folder, whole or not at all.

The archives stay beside the data set, in `archives/` of the same parent folder: data sets share them, a second try
needs no network, and they are on the disk that was chosen for gigabytes. They may be removed by hand.
"""

import json
import os
import shutil
from pathlib import Path

from fullyconv.arrange import ARRANGED, require_extra
from fullyconv.atomic import atomic_folder
from fullyconv.download import digest_of, download, megabytes
from fullyconv.errors import DataError, DownloadError, UsageError, show_path
from fullyconv.progress import Console, Progress
from fullyconv.published import Archive, PublishedSet, published_set
from fullyconv.unpack import unpack

__all__ = ["archives_beside", "fetch_dataset"]

ARCHIVES = "archives"
MARKER = ".fullyconv-download.json"
"""In the folder of a data set: which one it is. It is written last."""

LARGEST = 10 * 10**9
"""Bytes of an archive: five times what the largest of the table has."""

DISK_HINT = "make room, or choose folders on another disk with -o and --archives"


def archives_beside(folder: str | Path) -> Path:
    """Where the archives of a data set are kept unless something else is said: beside its folder."""
    return Path(folder).absolute().parent / ARCHIVES


def fetch_dataset(
    name: str,
    folder: str | Path,
    *,
    archives: str | Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Download a published data set into a new folder, which `Dataset.open` reads as it is.

    What came is kept when a download is interrupted, and the next call goes on with it. An archive that is there
    already is checked and not downloaded. `FULLYCONV_OFFLINE=1` forbids downloads.

    Args:
        name: Of the data set; see `published.PUBLISHED`.
        folder: The folder to make; its parents are made where they are missing.
        archives: Where archives are kept, by default `archives_beside(folder)`.
        offline: Download nothing: the archives have to be there.
        progress: Where to report; the console by default, since gigabytes take their time.

    Returns:
        Whether anything was done: False where the folder holds this data set already.

    Raises:
        UsageError: No such data set, something else is at `folder`, an archive is missing offline, or the extra is
            not installed.
        DownloadError: No address gives an archive, or the disk does not take it or what is in it. No folder is
            left then.
        DataError: An archive is damaged, not what it should be, or not safe to unpack.
    """
    wanted, folder, progress = published_set(name), Path(folder), progress or Console()
    if os.path.lexists(folder):
        _refuse_others(wanted, folder)
        progress.say(f"{folder} holds {name} already: nothing to do")
        return False
    require_extra(wanted.needs)
    kept = Path(archives) if archives is not None else archives_beside(folder)
    paths = [_fetch_archive(archive, kept, offline, progress) for archive in wanted.archives]
    try:
        _make(wanted, folder, paths, progress)
    except OSError as error:
        raise DownloadError(f"cannot write {show_path(folder)}: {error.strerror or error}", DISK_HINT) from None
    return True


def _make(wanted: PublishedSet, folder: Path, paths: list[Path], progress: Progress) -> None:
    """Unpack archives and arrange what was in them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_room(folder.parent, sum(path.stat().st_size for path in paths))
    with atomic_folder(folder) as temporary:
        parts = temporary / ".parts"
        parts.mkdir()
        for path in paths:
            if path.suffix == ".txt":
                shutil.copyfile(path, parts / path.name)
            else:
                unpack(path, parts, progress=progress)
        ARRANGED[wanted.name](parts, temporary, progress)
        shutil.rmtree(parts)
        marker = {"name": wanted.name, "digests": {a.file: a.digest for a in wanted.archives}}
        (temporary / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")


def _refuse_others(wanted: PublishedSet, folder: Path) -> None:
    """Refuse a path where something is that is not this data set."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != wanted.name:
        what = f"the data set {show_path(str(found))}" if found else "something else"
        raise UsageError(
            f"{show_path(folder)} exists already and holds {what}", hint="choose another folder with -o"
        )


def _fetch_archive(archive: Archive, folder: Path, offline: bool, progress: Progress) -> Path:
    """The path of an archive that is what it should be: the one that is there, or a new one."""
    path = folder / archive.file
    if path.exists():
        found = digest_of(path, archive.digest)
        if found != archive.digest:
            raise DataError(
                f"{show_path(path)}: expected the digest {archive.digest[:16]}..., got {found[:16]}...",
                hint="remove it, and it is downloaded again",
            )
        progress.say(f"{path} is there already")
        return path
    hint = f"copy {archive.file} to {folder}; it lies at {archive.urls[0]}"
    if offline or os.environ.get("FULLYCONV_OFFLINE", "0") not in ("", "0"):
        raise UsageError(f"there is no {path}, and offline it is not downloaded", hint)
    for number, url in enumerate(archive.urls, start=1):
        try:
            download(url, path, archive.digest, hint=hint, progress=progress, largest=LARGEST, disk_hint=DISK_HINT)
            break
        except DownloadError as error:
            if number == len(archive.urls):
                raise
            progress.say(f"{error.message}; trying another address")
    return path


def _check_room(folder: Path, needed: int) -> None:
    """Refuse to unpack archives where not even as much room is left as they take."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder} has {megabytes(free)} free, unpacking needs at least {megabytes(needed)}", DISK_HINT
        )
