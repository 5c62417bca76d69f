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
    "value_text",
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
    """A colour of its own for each class index: the colour map of PASCAL VOC.

    Args:
        index: 0..255.

    Returns:
        The bits of the index dealt out to red, green and blue from their highest bits down: black, maroon,
        green, olive, navy, ...
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
        self._check_entries()
        self._check_ignored()

    def _check_entries(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise DataError(f'expected a mask encoding "index", "rgb" or "binary", got {self.encoding!r}')
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(f"expected 1 to {MAX_CLASSES} classes, got {len(self.classes)}")
        highest = 255 if self.encoding == "binary" else 254
        for entry in self.classes:
            if not entry.name.strip() or not entry.name.isprintable():
                raise DataError(f"class value {entry.value}: expected a printable name, got {entry.name!r}")
            if not 0 <= entry.value <= highest:
                raise DataError(
                    f'class "{entry.name}": expected a mask value 0..{highest}, got {entry.value}'
                )
            if len(entry.color) != 3 or not all(0 <= part <= 255 for part in entry.color):
                raise DataError(f'class "{entry.name}": expected a colour of three 0..255, got {entry.color}')
        _refuse_twice("class name", self.names)
        _refuse_twice("mask value", self.values)
        if self.encoding == "rgb":
            _refuse_twice("colour", [*(entry.color for entry in self.classes), *self.ignored_colors])
        if self.encoding == "binary" and self.values != (0, 255):
            raise DataError(f"expected a binary table to have the mask values 0 and 255, got {self.values}")

    def _check_ignored(self) -> None:
        for value in self.ignored:
            if not 0 <= value <= 255:
                raise DataError(f"expected ignored mask values 0..255, got {value}")
            if value in self.values:
                raise DataError(f"mask value {value} is both a class and ignored")

    @classmethod
    def from_file(
        cls, path: str | Path, ignored: Iterable[int] = (), encoding: Encoding = "index"
    ) -> "ClassTable":
        """Read `classes.txt`: a line `index,name,r,g,b` for each class; lines that start with # are comments.

        The index is the value of the class in masks with one channel. An entry whose index is 255 or among
        `ignored` is no class; in RGB masks its colour is ignored.

        Args:
            path: The file, UTF-8.
            ignored: Mask values to leave out.
            encoding: How the masks hold the classes.

        Raises:
            DataError: The file cannot be read, or a line is not of that form.
        """
        return cls.from_entries(read_entries(path), ignored, encoding)

    @classmethod
    def from_entries(
        cls, entries: Sequence[ClassEntry], ignored: Iterable[int] = (), encoding: Encoding = "index"
    ) -> "ClassTable":
        """Make a table of declared entries, the ignored ones among them left out.

        Args:
            entries: Declared classes; one with value 255 is ignored unless the encoding is binary.
            ignored: Mask values to leave out.
            encoding: How the masks hold the classes. For "binary", two entries have to be left; the second
                takes the value 255.

        Raises:
            DataError: No class is left, or the entries contradict each other.
        """
        left_out = {int(value) for value in ignored} | ({IGNORE_INDEX} if encoding != "binary" else set())
        kept = [entry for entry in entries if entry.value not in left_out]
        dropped = [entry for entry in entries if entry.value in left_out]
        if not kept:
            raise DataError(f"expected at least one class, but all {len(entries)} declared ones are ignored")
        if encoding == "binary":
            kept = [replace(entry, value=255 if i else entry.value) for i, entry in enumerate(kept)]
        colors = tuple(entry.color for entry in dropped) if encoding == "rgb" else ()
        return cls(tuple(kept), tuple(left_out), encoding, colors)

    @classmethod
    def from_names(
        cls, names: Sequence[str], ignored: Iterable[int] = (), encoding: Encoding = "index"
    ) -> "ClassTable":
        """Make a table of names: mask value i is name i, in the default colours."""
        return cls.from_entries(entries_of_names(names), ignored, encoding)

    @classmethod
    def from_values(cls, values: Iterable[int], ignored: Iterable[int] = ()) -> "ClassTable":
        """Make a table of mask values: each is a class "class VALUE", in ascending order.

        Args:
            values: Mask values found; those in `ignored` and 255 are left out.
            ignored: Mask values that are no class.
        """
        left_out = {int(value) for value in ignored} | {IGNORE_INDEX}
        kept = sorted({int(value) for value in values} - left_out)
        entries = [ClassEntry(f"class {value}", value, default_color(i)) for i, value in enumerate(kept)]
        return cls(tuple(entries), tuple(left_out))

    @classmethod
    def binary(cls, names: Sequence[str] = ("background", "foreground")) -> "ClassTable":
        """Make the table of masks that hold only 0 and 255: black is class 0, white is class 1."""
        colors: tuple[Color, Color] = ((0, 0, 0), (255, 255, 255))
        entries = [
            ClassEntry(name, i, color) for i, (name, color) in enumerate(zip(names, colors, strict=True))
        ]
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
    def _index_of_color(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int16]]:
        """Colours as 0xRRGGBB, ascending, and the class index of each."""
        pairs = [(_packed(entry.color), index) for index, entry in enumerate(self.classes)]
        pairs += [(_packed(color), IGNORE_INDEX) for color in self.ignored_colors]
        pairs.sort()
        codes = np.array([code for code, _ in pairs], dtype=np.uint32)
        return codes, np.array([index for _, index in pairs], dtype=np.int16)

    def decode(self, array: npt.NDArray[np.uint8], where: str | Path = "mask") -> Mask:
        """Turn the raw values or colours of a mask file into class indices.

        Args:
            array: H x W uint8 mask values; or H x W x 3 uint8 RGB, which an "rgb" table reads as colours and
                the others as values if all three channels are equal.
            where: The mask's name for messages.

        Returns:
            H x W uint8: class indices 0..C-1, 255 where ignored.

        Raises:
            DataError: A value or colour is neither a class nor ignored; names the first one in reading order,
                the number of its pixels and the first of them.
        """
        if array.ndim == 3 and self.encoding == "rgb":
            return self._decode_colors(array, where)
        if array.ndim == 3:
            array = _one_channel(array, where)
        indices = self._index_of_value[array]
        if (indices < 0).any():
            raise self._unknown_value(array, indices, where)
        return indices.astype(np.uint8)

    def _decode_colors(self, array: npt.NDArray[np.uint8], where: str | Path) -> Mask:
        codes, index_of_code = self._index_of_color
        pixels = _pack_colors(array)
        place = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
        unknown = codes[place] != pixels
        if unknown.any():
            row, column = _first(unknown)
            red, green, blue = (int(part) for part in array[row, column])
            count = int((pixels == pixels[row, column]).sum())
            raise DataError(
                f"{where}: colour {red},{green},{blue} ({count} pixels, first at row {row}, column {column}) "
                "is not in the class table",
                hint=f"add a line INDEX,NAME,{red},{green},{blue} to classes.txt; index 255 ignores it",
            )
        return index_of_code[place].astype(np.uint8)

    def _unknown_value(
        self, array: npt.NDArray[np.uint8], indices: npt.NDArray[np.int16], where: str | Path
    ) -> DataError:
        row, column = _first(indices < 0)
        value = int(array[row, column])
        count = int((array == value).sum())
        return DataError(
            f"{where}: mask value {value} ({count} pixels, first at row {row}, column {column}) is not one "
            f"of the {self.num_classes} class values {value_text(self.values)}",
            hint=f"correct the mask, add class {value} to the class table, or leave it out: --ignore {value}",
        )

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
            row, column = _first(values < 0)
            raise DataError(
                f"class index {int(mask[row, column])} at row {row}, column {column} is not one of the "
                f"{self.num_classes} classes of the class table"
            )
        return values.astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values, in one canonical form."""
        return {
            "classes": [
                {"name": entry.name, "value": entry.value, "color": list(entry.color)}
                for entry in self.classes
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
            raise DataError(
                f"expected a class table in JSON, got one that cannot be read: {error!r}"
            ) from error


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


def _pack_colors(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Pack H x W x 3 colours into H x W numbers 0xRRGGBB."""
    wide = array.astype(np.uint32)
    return wide @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)


def value_text(values: Sequence[int]) -> str:
    """Mask values for a message: "0..10" where they are consecutive, else "0, 1, 3"."""
    if len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(value) for value in values)


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _one_channel(array: npt.NDArray[np.uint8], where: str | Path) -> npt.NDArray[np.uint8]:
    colored = (array != array[..., :1]).any(axis=2)
    if colored.any():
        row, column = _first(colored)
        red, green, blue = (int(part) for part in array[row, column])
        raise DataError(
            f"{where}: expected a mask with one channel of class values, got RGB with colour "
            f"{red},{green},{blue} at row {row}, column {column}",
            hint="RGB masks need a classes.txt with a line index,name,r,g,b for each colour",
        )
    return array[..., 0]


def _first(where: npt.NDArray[np.bool_]) -> tuple[int, int]:
    row, column = np.unravel_index(int(where.argmax()), where.shape)
    return int(row), int(column)


def _refuse_twice(what: str, items: Iterable[object]) -> None:
    seen = set()
    for item in items:
        if item in seen:
            raise DataError(f"the class table has the {what} {item!r} twice", hint="each must be there once")
        seen.add(item)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _color(value: Any) -> Color:
    red, green, blue = (_typed(part, int) for part in value)
    return red, green, blue
