"""What of a job is done: the manifest, kept while any process of it may be killed.

In the folder of its outputs::

    OUT/manifest.jsonl            one line an image: its file, its outputs and their SHA-256, or why it has none
    OUT/quarantine.csv            the images that have none
    OUT/.fullyconv/job.json       what the job is: the model, the settings
    OUT/.fullyconv/batches/*.json the batches of a run, each rewritten after every image, until they are merged

A batch belongs to one worker at a time. Whoever takes up a batch that has a file already knows that the worker
before it has died, and on which image: the first without a record. That one is tried again after the others.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullyconv.errors import FullyConvError, UsageError
from fullyconv.folders import HIDDEN, Folder

__all__ = ["BATCHES", "QUARANTINE", "TRIES", "Batch", "Manifest", "quarantined", "start_job", "work_through"]

BATCHES = f"{HIDDEN}/batches"
JOB = f"{HIDDEN}/job.json"
MANIFEST = "manifest.jsonl"
QUARANTINE = "quarantine.csv"

TRIES = 3
"""Workers that may die on an image before it is left alone. Two killed at random may be at the same one."""

Record = dict[str, Any]
"""What became of an item: `key`, `status` ("done" or "quarantined"), `reason`, and what its work gave."""


@dataclass(frozen=True)
class Batch:
    """Items that one worker does, one after the other.

    Attributes:
        id: Its name, of letters that file names may have.
        items: JSON objects with a `key`, each of its own.
    """

    id: str
    items: Sequence[Mapping[str, Any]]


def start_job(folder: Folder, job: Mapping[str, Any], outputs: Iterable[str]) -> dict[str, Any]:
    """Begin a job in a folder, or go on with it.

    Args:
        folder: Where its outputs go.
        job: What it is: names and JSON values. Those of "chosen" hold from its beginning on, whatever is given
            later.
        outputs: Names that files of it may have.

    Returns:
        The job as it began.

    Raises:
        UsageError: The folder has another job in it, or files under names of outputs that no job has written.
    """
    text = folder.read(JOB)
    if text is not None:
        begun: dict[str, Any] = json.loads(text)
        for name in sorted((set(begun) | set(job)) - {"chosen"}):
            there, here = begun.get(name), job.get(name)
            if there != here:
                raise UsageError(
                    f"{folder} holds a job with {name} {_short(there)}, this one has {_short(here)}",
                    hint="repeat the command with which it began, or choose another folder with -o",
                )
        return begun
    taken = {name.casefold() for name in folder.names()}
    if taken:
        for name in (MANIFEST, QUARANTINE, *outputs):
            if name.casefold() in taken:
                raise UsageError(f"{folder}/{name} is there already", hint="choose another folder with -o")
    folder.write(JOB, json.dumps(dict(job), indent=1).encode())
    return dict(job)


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 20 else f"{text[:16]}..."


class Manifest:
    """What of a job is done. One process has it open, while others work through batches.

    Args:
        folder: Of the job.

    Attributes:
        records: Of each key that a run so far has come to.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        lines = (folder.read(MANIFEST) or b"").decode().splitlines()
        self.records: dict[str, Record] = {record["key"]: record for record in map(json.loads, lines)}
        self.merge()

    def merge(self) -> None:
        """Take the records of all batches into the manifest, and remove the batches."""
        names = self.folder.names(BATCHES)
        for name in names:
            for key, record in _state(self.folder.read(name))["records"].items():
                if self.records.get(key, {}).get("status") != "done" or record["status"] == "done":
                    self.records[key] = record
        if names:
            self.write()
            self.folder.remove(BATCHES)

    def write(self) -> None:
        """Write the manifest and the list of what is in quarantine."""
        records = [self.records[key] for key in sorted(self.records)]
        self.folder.write(MANIFEST, "".join(json.dumps(record) + "\n" for record in records).encode())
        rows = [record for record in records if record["status"] == "quarantined"]
        if not rows:
            self.folder.remove(QUARANTINE)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["name", "file", "reason"])
        writer.writerows([row["key"], row.get("input", ""), row["reason"]] for row in rows)
        self.folder.write(QUARANTINE, text.getvalue().encode("utf-8", "surrogateescape"))

    def forget(self, keys: Iterable[str]) -> None:
        """Drop records; they are gone from the file when it is written next."""
        for key in keys:
            self.records.pop(key, None)


def _state(text: bytes | None) -> dict[str, Any]:
    """What a batch's file holds; a fresh one where it is not there."""
    return json.loads(text) if text else {"records": {}, "tries": {}}


def work_through(folder: Folder, batch: Batch, work: Callable[[Mapping[str, Any]], Record]) -> dict[str, Any]:
    """Do the items of a batch that are left, each exactly once; what cannot be done is put in quarantine.

    An item on which `TRIES` workers have died is not tried again.

    Args:
        folder: Of the job.
        batch: What to do.
        work: Does one item and says what it gave. To do it again must change nothing.

    Returns:
        Of each key its status.

    Raises:
        OSError: Something is wrong with the folder, and so with all that would follow.
    """
    name = f"{BATCHES}/{batch.id}.json"
    found = folder.read(name)
    state = _state(found)
    if found is not None and (left := _left(batch, state)):  # Somebody has begun, and is no more.
        died_on = left[0]
        tries = state["tries"][died_on["key"]] = state["tries"].get(died_on["key"], 0) + 1
        if tries >= TRIES:
            state["records"][died_on["key"]] = quarantined(died_on, f"{tries} workers died on it")
    _keep(folder, name, state)
    for item in _left(batch, state):
        try:
            record = {"key": item["key"], "input": item["input"], "status": "done", **work(item)}
        except FullyConvError as error:
            record = quarantined(item, str(error))
        except OSError:
            raise
        except Exception as error:  # Whatever is wrong with this one, the others have to be done.
            record = quarantined(item, f"{type(error).__name__}: {error}")
        state["records"][item["key"]] = record
        _keep(folder, name, state)
    return {key: record["status"] for key, record in state["records"].items()}


def _left(batch: Batch, state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The items without a record, in the order in which they are done: those last on which workers have died."""
    left = [item for item in batch.items if item["key"] not in state["records"]]
    return sorted(left, key=lambda item: int(state["tries"].get(item["key"], 0)))


def quarantined(item: Mapping[str, Any], reason: str) -> Record:
    """The record of an item that cannot be done."""
    return {"key": item["key"], "input": item["input"], "status": "quarantined", "reason": reason}


def _keep(folder: Folder, name: str, state: Mapping[str, Any]) -> None:
    folder.write(name, json.dumps(state).encode())
