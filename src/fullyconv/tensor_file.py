"""Named tensors and one JSON document in one safetensors file, sealed by a digest.

What model files and checkpoints have in common. The document stands in the file's only metadata entry (the
library orders several at random), as canonical JSON: keys sorted, no spaces, floats in their shortest exact form.
Its `digest` is a SHA-256 over the rest of the document and all tensors: safetensors itself notices almost no
damage to the numbers. Nothing in a file is ever run or unpickled.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fullyconv.atomic import atomic_path
from fullyconv.encoder import tensors_digest
from fullyconv.errors import ModelFileError
from fullyconv.images import show_path

__all__ = ["canonical_json", "read_tensor_file", "write_tensor_file"]

_MAX_HEADER = 16 << 20
"""Bytes. The largest network needs a few thousand; a header is parsed before its digest can be checked."""

_UNREADABLE = (SafetensorError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError)
"""What parsers raise at damaged or hostile headers (RecursionError is a RuntimeError)."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_OTHER_FORMATS = {
    b"PK": "a zip file, such as torch.save writes",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
}


def canonical_json(document: Any) -> str:
    """The one way to write a JSON document.

    Raises:
        ModelFileError: It has a value that JSON has not, such as NaN or an object.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()  # A file name that is no UTF-8 is no JSON either.
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"expected values that JSON can hold: {_reason(error)}") from None
    return text


def write_tensor_file(
    path: str | Path,
    kind: str,
    version: int,
    document: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    overwrite: bool = True,
) -> None:
    """Write a file, whole or not at all. Equal content gives equal bytes.

    Args:
        path: Where to, in an existing folder.
        kind: Name of the metadata entry: what sort of file this is.
        version: Format version, kept in the document as `format_version`.
        document: JSON values under any keys but `format_version` and `digest`.
        tensors: By name, on any device.
        overwrite: Whether a file that is there already is replaced.

    Raises:
        ModelFileError: The document is not JSON, or the disk does not take the file. An older file is still
            there then.
        UsageError: There is a file already and `overwrite` is False.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = {**document, "format_version": version}
    sealed["digest"] = tensors_digest(content, canonical_json(sealed))
    metadata = {kind: canonical_json(sealed)}
    try:
        with atomic_path(path, overwrite=overwrite) as temporary:
            _write(temporary, metadata, content)
    except OSError as error:
        raise ModelFileError(
            f"{show_path(path)} cannot be written: {_reason(error)}", hint=_room(Path(path).parent, content)
        ) from error


def _write(path: Path, metadata: Mapping[str, str], content: Mapping[str, Tensor]) -> None:
    """Write the safetensors format: the length of the header, the header, the tensors one after the other.

    The library's own `save_file` writes to a temporary file of its own, which a killed process leaves behind and
    which nobody else may read, and `save` holds two more copies of all tensors.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    # Wide numbers first, then by name, as the library does: everything is aligned without gaps.
    ordered = sorted(content.items(), key=lambda item: (-item[1].element_size(), item[0]))
    position = 0
    for name, tensor in ordered:
        end = position + tensor.nbytes
        if tensor.dtype not in _DTYPES:
            raise ModelFileError(f"a safetensors file cannot hold {name}: it is {tensor.dtype}")
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for _, tensor in ordered:
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _room(folder: Path, content: Mapping[str, Tensor]) -> str | None:
    """Say how much the file needs and the disk has."""
    if not folder.is_dir():
        return f"make the folder {show_path(folder)} first"
    needed = sum(tensor.nbytes for tensor in content.values())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    return f"it takes {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {show_path(folder)}"


def read_tensor_file(path: str | Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file back, if it is exactly what `write_tensor_file` wrote.

    Args:
        path: The file.
        kind: The metadata entry that it has to have.
        version: The newest format version that the caller knows.

    Returns:
        The document with `format_version` and `digest`, and the tensors on the CPU.

    Raises:
        ModelFileError: The file cannot be read, is no such file, is of another version, or is damaged.
    """
    data = _read(Path(path))
    where = show_path(path)
    try:
        metadata = json.loads(data[8 : 8 + _header_length(data)]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
    except _UNREADABLE as error:
        raise ModelFileError(f"{where} is not a whole safetensors file: {_reason(error)}") from None
    del data  # The tensors are copies: from here on, one of them and what the caller makes is all.
    if not isinstance(metadata, dict) or set(metadata) != {kind}:
        entries = ", ".join(sorted(map(ascii, metadata)))[:100] or "no metadata"
        raise ModelFileError(f'{where}: expected a safetensors file with the metadata "{kind}", it has {entries}')
    document = _parse(metadata[kind], where)
    _check_version(document.get("format_version"), version, where)
    digest = document.pop("digest", None)
    if digest != tensors_digest(tensors, canonical_json(document)):
        raise ModelFileError(
            f"{where} is damaged: its content does not have the digest that it names", hint="copy it again"
        )
    return {**document, "digest": digest}, tensors


def _read(path: Path) -> bytes:
    """Read a file that begins as a safetensors file does."""
    where = show_path(path)
    if path.exists() and not path.is_file():
        raise ModelFileError(f"{where} is a {'folder' if path.is_dir() else 'device'}, not a safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = os.fstat(file.fileno()).st_size
            if len(start) == 8 and 2 <= _header_length(start) <= min(size - 8, _MAX_HEADER):
                file.seek(0)
                return file.read()
    except OSError as error:
        raise ModelFileError(f"{where} cannot be read: {_reason(error)}") from None
    # Only now: the header length of a good file may begin with the same bytes.
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ModelFileError(f"{where} is {what}, not a safetensors file", hint="nothing in it was run")
    raise ModelFileError(f"{where} is not a whole safetensors file: no header fits in its {size} bytes")


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _parse(text: Any, where: str) -> dict[str, Any]:
    """Parse canonical JSON; what is written in another way was not written by this package."""
    try:
        document = json.loads(text)
        canonical = canonical_json(document)
    except (TypeError, ValueError, RecursionError, ModelFileError) as error:
        raise ModelFileError(f"{where}: its description is not JSON: {_reason(error)}") from None
    if not isinstance(document, dict) or canonical != text:
        raise ModelFileError(f"{where}: its description is not the canonical JSON that fullyconv writes")
    return document


def _check_version(found: Any, known: int, where: str) -> None:
    if type(found) is not int or found < 1:
        raise ModelFileError(f"{where}: expected a format version 1..{known}, got {ascii(found)[:40]}")
    if found > known:
        raise ModelFileError(
            f"{where} was written by a newer fullyconv: format version {found}, known are 1..{known}",
            hint="pip install --upgrade fullyconv",
        )


def _reason(error: BaseException) -> str:
    """The first line of what an exception says."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return show_path(str(text).splitlines()[0][:200])
