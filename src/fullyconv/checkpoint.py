"""Crash-safe training state: what a killed run goes on from, and who may write to a run folder.

A checkpoint is a new file for each epoch, `epoch-0007.safetensors` (`fullyconv.tensor_file`): the tensors of a
nested state under the names of their places, everything else as JSON, a digest over both. The newest two are kept,
so that one that the disk has damaged costs an epoch and not the run. Nothing is pickled.
"""

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from fullyconv import processes
from fullyconv.atomic import process_start, remove_stale_temporaries
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.images import show_path
from fullyconv.tensor_file import read_tensor_file, write_tensor_file

__all__ = ["RunLock", "load_newest", "of_first", "save_checkpoint"]

_KIND = "fullyconv_checkpoint"
_VERSION = 1
_NAME = re.compile(r"epoch-(\d{4,})\.safetensors")
_KEPT = 2


def save_checkpoint(folder: str | Path, state: Mapping[str, Any], *, epoch: int) -> Path:
    """Write the state after an epoch, then remove all checkpoints but this and the one before.

    Args:
        folder: Where checkpoints are kept; made if it is not there.
        state: Nested dicts (with str or int keys), lists and tuples of tensors, numbers, strings, booleans and
            None: state dicts of modules and optimisers as they are.
        epoch: Epochs done, from 0 up.

    Returns:
        The file.

    Raises:
        ModelFileError: A value of another type, or a disk that does not take the file. The checkpoints that were
            there are there still.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    document = {"epoch": epoch, "state": _pack(dict(state), "", tensors)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelFileError(f"{show_path(folder)} cannot be made: {error.strerror}") from error
    remove_stale_temporaries(folder)
    path = folder / f"epoch-{epoch:04d}.safetensors"
    write_tensor_file(path, _KIND, _VERSION, document, tensors)
    # What is newer than this epoch is damaged or of a future that was given up: the run went on from before it.
    kept = [number for number in _epochs(folder) if number <= epoch][:_KEPT]
    for number, other in _epochs(folder).items():
        if number not in kept:
            other.unlink(missing_ok=True)
    return path


def load_newest(folder: str | Path, *, report: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole.

    Args:
        folder: Where `save_checkpoint` wrote.
        report: Called with one line for each newer checkpoint that is damaged, naming the file.

    Returns:
        The state, its tensors on the CPU, equal to the saved one in every bit; None where there is no checkpoint.

    Raises:
        ModelFileError: There are checkpoints, but none is whole.
    """
    folder = Path(folder)
    problems = []
    for number, path in _epochs(folder).items():
        try:
            return _load(path, number)
        except ModelFileError as error:
            problems.append(error.message)
            if report is not None:
                report(f"{error.message}; going back to the checkpoint before it")
    if problems:
        raise ModelFileError(
            f"no checkpoint in {show_path(folder)} can be used: {problems[0]}", hint="start a new run"
        )
    return None


def of_first(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the state that the first process has read, in every bit; the others give None.

    So a run folder on one machine is enough for processes on several.
    """
    tensors: dict[str, Tensor] = {}
    packed = _pack(dict(state) if state is not None else None, "", tensors)
    kinds = {
        name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in tensors.items()
    }
    packed, kinds = json.loads(processes.text_of_first(json.dumps([packed, kinds])))
    empty = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in kinds.items()}
    found = _unpack(packed, processes.of_first(tensors or empty))
    return found if isinstance(found, dict) else None


def _load(path: Path, epoch: int) -> dict[str, Any]:
    document, tensors = read_tensor_file(path, _KIND, _VERSION)
    if document.get("epoch") != epoch:
        raise ModelFileError(f"{show_path(path)} holds epoch {document.get('epoch')}, not {epoch}: it was renamed")
    try:
        state = _unpack(document["state"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{show_path(path)} is no checkpoint: {error!r}") from None
    if not isinstance(state, dict):
        raise ModelFileError(f"{show_path(path)} is no checkpoint: it holds no state")
    return state


def _epochs(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by epoch, newest first."""
    found = {int(m[1]): path for path in folder.glob("epoch-*") if (m := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a nested state into JSON, its tensors put aside under the names of their places.

    JSON has neither integer keys, tuples, tensors nor infinities. So every dict becomes a list of pairs, and each
    of these kinds an object with one entry that names the kind: {"dict": [[0, ...], ...]}.
    """
    if isinstance(value, Tensor):
        name = place
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise ModelFileError(f"a checkpoint cannot hold the key {key!r} at {place or 'the top'}")
        return {"dict": [[key, _pack(item, _join(place, key), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, _join(place, index), tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if type(value) is float and value - value != 0:
        return {"float": repr(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ModelFileError(f"a checkpoint cannot hold the {type(value).__name__} at {place}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r}")


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


class RunLock:
    """Holds a run folder: two trainings in one folder would destroy each other's files.

    The file `.lock` in the folder names the process that holds it. It is removed at the end; one that a killed
    process left is recognised and taken over. Temporaries that the killed process left in the folder are removed.

        with RunLock(folder):
            ...

    Args:
        folder: The run folder; it has to exist.

    Raises:
        UsageError: On entering, where another process that lives holds the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / ".lock"
        self._text = ""

    def __enter__(self) -> "RunLock":
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "start": process_start(os.getpid())}
        self._text = json.dumps({**owner, "token": secrets.token_hex(8)})
        while not self._take():
            text = self._read()
            self._refuse_living(text)
            self._set_aside(text)
        remove_stale_temporaries(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._read() == self._text:
            self.path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Make the file, if there is none."""
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        return True

    def _read(self) -> str:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
            if not text:  # Made, but not written: by a process that is at it, or was killed between the two.
                time.sleep(0.2)
                text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return text

    def _refuse_living(self, text: str) -> None:
        try:
            owner = json.loads(text)
            host, pid, start = str(owner["host"]), int(owner["pid"]), str(owner["start"])
        except (ValueError, KeyError, TypeError):
            return  # Nothing that a living RunLock writes.
        if host != socket.gethostname():
            raise UsageError(
                f"{show_path(self.folder)} is held by process {pid} on {show_path(host)}",
                hint=f"if nothing works there any more, remove {show_path(self.path)}",
            )
        now = process_start(pid)
        if now is not None and (now == start or "" in (now, start)):
            raise UsageError(
                f"{show_path(self.folder)} is held by process {pid}: another process writes to it",
                hint="wait for it, or choose another folder with -o",
            )

    def _set_aside(self, stale: str) -> None:
        """Remove a stale lock, but never one that another process has just put in its place."""
        aside = self.folder / f".lock-{secrets.token_hex(8)}"
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return  # Somebody else was faster.
        if aside.read_text(encoding="utf-8", errors="replace") == stale:
            aside.unlink()
        else:
            aside.rename(self.path)
