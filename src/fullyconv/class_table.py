"""What the values of a mask mean: class index, mask value, name, colour; ignored values.

A class has an *index* (0..C-1, what networks and metrics count in) and a *value* (what mask files hold).
Often they are equal, but nothing relies on it: a set labelled 200, 210, 220 has the class indices 0, 1, 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DataError
from fullyconv.mask_values import first_where, one_channel, packed, value_text
from fullyconv.shapes import Mask

__all__ = [
    "IGNORE_INDEX",
    "MAX_CLASSES",
    "ClassEntry",
    "ClassTable",
    "Color",
    "Encoding",
    "default_color",
    "entries_of_names",
    "read_entries",
]

IGNORE_INDEX = 255
"""The class index of a pixel without a class; also the mask value that is ignored by default."""

MAX_CLASSES = 255
"""Class indices are uint8 and 255 is taken."""

Color: TypeAlias = tuple[int, int, int]
"""(red, green, blue), each 0..255."""

Encoding: TypeAlias = Literal["index", "rgb", "binary"]
"""How mask files say the class: a value a pixel, a colour a pixel, or the two values 0 and 255."""

_HEADER = ["index", "name", "r", "g", "b"]


def default_color(index: int) -> Color:
    """A colour of its own for each class index 0..255: the colour map of PASCAL VOC.

    The bits of the index are dealt out to red, green and blue from the highest down: black, maroon, green, ...
    """
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (index & 1) << place
        green |= (index >> 1 & 1) << place
        blue |= (index >> 2 & 1) << place
        index >>= 3
    return red, green, blue


@dataclass(frozen=True)
class ClassEntry:
    """One class.

    Attributes:
        name: What people call it; unique in its table.
        value: Its value in mask files: 0..254, or 255 for the second class of a binary table.
        color: (red, green, blue), each 0..255, for pictures; in RGB masks, how the class is found.
    """

    name: str
    value: int
    color: Color


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set or model, in the order of their indices.

    Attributes:
        classes: The entry at position i has class index i. 1 to 255 entries.
        ignored: Mask values that are no class, besides 255; sorted. 255 is ignored too unless `encoding` is
            "binary".
        encoding: "index" (masks hold values), "rgb" (masks hold the classes' colours; a mask with one channel
            is read as values all the same) or "binary" (masks hold 0 and 255; 255 is class 1).
        ignored_colors: In RGB masks, the colours that are no class.

    Raises:
        DataError: A value, name or colour is out of range or given twice.
    """

    classes: tuple[ClassEntry, ...]
    ignored: tuple[int, ...] = ()
    encoding: Encoding = "index"
    ignored_colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        ignored = {int(value) for value in self.ignored} - {IGNORE_INDEX}
        object.__setattr__(self, "ignored", tuple(sorted(ignored)))
        object.__setattr__(self, "ignored_colors", tuple(sorted(set(self.ignored_colors))))
        self._check()

    def _check(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise DataError(f'expected a mask encoding "index", "rgb" or "binary", got {self.encoding!r}')
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(f"expected 1 to {MAX_CLASSES} classes that are not ignored, got {len(self.classes)}")
        for entry in self.classes:
            if not entry.name.strip() or not entry.name.isprintable():
                raise DataError(f"class value {entry.value}: expected a printable name, got {entry.name!r}")
            if not 0 <= entry.value <= 254 and self.encoding != "binary":
                raise DataError(f'class "{entry.name}": expected a mask value 0..254, got {entry.value}')
        _refuse_twice("class name", self.names)
        _refuse_twice("mask value", [*self.values, *self.ignored])
        if self.encoding == "binary" and self.values != (0, 255):
            raise DataError(f"expected a binary table to have the mask values 0 and 255, got {self.values}")
        if not all(0 <= value <= 255 for value in self.ignored):
            raise DataError(f"expected ignored mask values 0..255, got {self.ignored}")
        colors = [*(entry.color for entry in self.classes), *self.ignored_colors]
        for color in colors:
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise DataError(f"expected a colour of three values 0..255, got {color}")
        if self.encoding == "rgb":
            _refuse_twice("colour", colors)

    @classmethod
    def from_file(
        cls, path: str | Path, ignored: Iterable[int] = (), encoding: Encoding = "index"
    ) -> "ClassTable":
        """Read `classes.txt`: a line `index,name,r,g,b` for each class; a line that starts with # is a comment.

        The index is the class's value in masks. An entry with index 255 or one of `ignored` is no class.

        Raises:
            DataError: The file cannot be read, or a line is not of that form.
        """
        return cls.from_entries(read_entries(path), ignored, encoding, where=str(path))

    @classmethod
    def from_entries(
        cls,
        entries: Sequence[ClassEntry],
        ignored: Iterable[int] = (),
        encoding: Encoding = "index",
        where: str = "class table",
    ) -> "ClassTable":
        """Make a table of declared entries in the order of their values, the ignored ones left out.

        Args:
            entries: Declared classes; one with value 255 is ignored unless the encoding is binary.
            ignored: Mask values to leave out.
            encoding: How the masks hold the classes. For "binary", two entries have to be left; the second
                takes the value 255.
            where: The table's name for messages.

        Raises:
            DataError: No class is left, or the entries contradict each other.
        """
        left_out = {int(value) for value in ignored} | ({IGNORE_INDEX} if encoding != "binary" else set())
        kept = sorted((e for e in entries if e.value not in left_out), key=lambda entry: entry.value)
        colors = [entry.color for entry in entries if entry.value in left_out]
        if encoding == "binary":
            kept = [replace(entry, value=255 if i else entry.value) for i, entry in enumerate(kept)]
        try:
            return cls(tuple(kept), tuple(left_out), encoding, tuple(colors) if encoding == "rgb" else ())
        except DataError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from None

    @classmethod
    def from_names(cls, names: Sequence[str], ignored: Iterable[int] = ()) -> "ClassTable":
        """Make a table of names: mask value i is name i, in the default colours."""
        return cls.from_entries(entries_of_names(names), ignored)

    @classmethod
    def from_values(cls, values: Iterable[int], ignored: Iterable[int] = ()) -> "ClassTable":
        """Make a table of mask values: each is a class "class VALUE", in ascending order; ignored ones are not."""
        left_out = {int(value) for value in ignored} | {IGNORE_INDEX}
        kept = sorted({int(value) for value in values} - left_out)
        entries = [ClassEntry(f"class {value}", value, default_color(i)) for i, value in enumerate(kept)]
        return cls(tuple(entries), tuple(left_out))

    @classmethod
    def binary(cls, names: Sequence[str] = ("background", "foreground")) -> "ClassTable":
        """Make the table of masks that hold only 0 and 255: black is class 0, white is class 1."""
        colors: tuple[Color, Color] = ((0, 0, 0), (255, 255, 255))
        entries = [ClassEntry(name, i, color) for i, (name, color) in enumerate(zip(names, colors, strict=True))]
        return cls.from_entries(entries, (), "binary")

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, by class index."""
        return tuple(entry.name for entry in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """The mask values, by class index."""
        return tuple(entry.value for entry in self.classes)

    @property
    def colors(self) -> npt.NDArray[np.uint8]:
        """C x 3, uint8, RGB: the colours, by class index."""
        return np.array([entry.color for entry in self.classes], dtype=np.uint8).reshape(-1, 3)

    @property
    def color_by_value(self) -> dict[int, Color]:
        """The colour of each class's mask value, for `images.write_mask`."""
        return {entry.value: entry.color for entry in self.classes}

    @cached_property
    def _index_of_value(self) -> npt.NDArray[np.int16]:
        """256 entries: the class index of a mask value, 255 where ignored, -1 where unknown."""
        lookup = np.full(256, -1, dtype=np.int16)
        lookup[list(self.ignored)] = IGNORE_INDEX
        if self.encoding != "binary":
            lookup[IGNORE_INDEX] = IGNORE_INDEX
        for index, value in enumerate(self.values):
            lookup[value] = index
        return lookup

    @cached_property
    def _index_of_color(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Colours as 0xRRGGBB, ascending, and the class index of each."""
        colors = np.array([*(entry.color for entry in self.classes), *self.ignored_colors], dtype=np.uint8)
        indices = [*range(self.num_classes), *(IGNORE_INDEX for _ in self.ignored_colors)]
        codes = packed(colors)
        order = np.argsort(codes)
        return codes[order], np.array(indices, dtype=np.uint8)[order]

    def decode(self, array: npt.NDArray[np.uint8], where: str | Path = "mask") -> Mask:
        """Turn the raw values or colours of a mask file into class indices.

        Args:
            array: H x W uint8 mask values; or H x W x 3 uint8 RGB, read as colours by an "rgb" table and as
                grey by others.
            where: The mask's name for messages.

        Returns:
            H x W uint8: class indices 0..C-1, 255 where ignored.

        Raises:
            DataError: A value or colour is neither a class nor ignored. The message names the first one in
                reading order, its pixels' number and the first of them.
        """
        if array.ndim == 3 and self.encoding == "rgb":
            return self._decode_colors(array, where)
        array = one_channel(array, where)
        indices = self._index_of_value[array]
        if (indices < 0).any():
            value, pixels = first_where(indices < 0, array)
            raise DataError(
                f"{where}: mask value {value} ({pixels}) is not one of the {self.num_classes} class values "
                f"{value_text(self.values)}",
                hint=f"correct the mask, add class {value} to the class table, or leave it out: --ignore {value}",
            )
        return indices.astype(np.uint8)

    def _decode_colors(self, array: npt.NDArray[np.uint8], where: str | Path) -> Mask:
        codes, index_of_code = self._index_of_color
        pixels = packed(array)
        place = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
        unknown = codes[place] != pixels
        if unknown.any():
            code, where_in_mask = first_where(unknown, pixels)
            color = f"{code >> 16},{code >> 8 & 255},{code & 255}"
            raise DataError(
                f"{where}: colour {color} ({where_in_mask}) is not in the class table",
                hint=f"write {color} as the colour of its class into classes.txt; index 255 ignores a colour",
            )
        return index_of_code[place]

    def encode(self, mask: Mask) -> npt.NDArray[np.uint8]:
        """Turn class indices into mask values, the inverse of `decode` for masks with one channel.

        Args:
            mask: H x W uint8 class indices, 255 = ignored.

        Returns:
            H x W uint8 mask values, 255 where `mask` is 255.

        Raises:
            DataError: An index is not of this table, or a pixel is ignored in a binary table, where 255 is a
                class.
        """
        lookup = np.full(256, -1, dtype=np.int16)
        lookup[: self.num_classes] = self.values
        if self.encoding != "binary":
            lookup[IGNORE_INDEX] = IGNORE_INDEX
        values = lookup[mask]
        if (values < 0).any():
            index, pixels = first_where(values < 0, mask)
            raise DataError(f"class index {index} ({pixels}) is not one of the {self.num_classes} classes")
        return values.astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values, in one canonical form."""
        return {
            "classes": [
                {"name": entry.name, "value": entry.value, "color": list(entry.color)} for entry in self.classes
            ],
            "encoding": self.encoding,
            "ignored": list(self.ignored),
            "ignored_colors": [list(color) for color in self.ignored_colors],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ClassTable":
        """Read back what `to_json` gave.

        Raises:
            DataError: The data are not of that form.
        """
        try:
            if unknown := sorted(set(data) - {"classes", "encoding", "ignored", "ignored_colors"}):
                raise ValueError(f"unknown keys {unknown}")
            return cls(
                tuple(
                    ClassEntry(_typed(e["name"], str), _typed(e["value"], int), _color(e["color"]))
                    for e in data["classes"]
                ),
                tuple(_typed(value, int) for value in data["ignored"]),
                data["encoding"],
                tuple(_color(color) for color in data["ignored_colors"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"expected a class table in JSON, got one that cannot be read: {error!r}") from error


def read_entries(path: str | Path) -> tuple[ClassEntry, ...]:
    """Read the lines of a `classes.txt`; see `ClassTable.from_file`.

    Raises:
        DataError: The file cannot be read, or a line is not `index,name,r,g,b`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: expected a class table, got a file that cannot be read ({reason})",
            hint="a text file with a line index,name,r,g,b for each class; or names separated by commas",
        ) from error
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip() or line.lstrip().startswith("#") or [f.lower() for f in fields] == _HEADER:
            continue
        try:
            value, name, red, green, blue = fields
            entries.append(ClassEntry(name, int(value), (int(red), int(green), int(blue))))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: expected index,name,r,g,b, got {line.strip()!r}",
                hint="one class a line, such as 3,road,128,64,128; a line that starts with # is a comment",
            ) from error
    if not entries:
        raise DataError(f"{path}: expected lines index,name,r,g,b, got none")
    return tuple(entries)


def entries_of_names(names: Sequence[str]) -> tuple[ClassEntry, ...]:
    """Entries of class names: value i is name i, in the default colours.

    Raises:
        DataError: There are more than 255 names.
    """
    if len(names) > MAX_CLASSES:
        raise DataError(f"expected at most {MAX_CLASSES} class names, got {len(names)}")
    return tuple(ClassEntry(name.strip(), i, default_color(i)) for i, name in enumerate(names))


def _refuse_twice(what: str, items: Sequence[object]) -> None:
    if twice := [item for item in items if items.count(item) > 1]:
        raise DataError(f"expected each {what} once, got {twice[0]!r} twice")


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _color(value: Any) -> Color:
    red, green, blue = (_typed(part, int) for part in value)
    return red, green, blue
