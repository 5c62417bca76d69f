"""Mask values for formats that call classes by name, and the file in which a data set's classes are kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullyconv.class_table import IGNORE_INDEX, MAX_CLASSES, ClassEntry, ClassTable, default_color
from fullyconv.errors import DataError
from fullyconv.layout import KnownClasses

__all__ = [
    "BACKGROUND",
    "CLASSES_FILE",
    "IGNORED",
    "Labels",
    "is_background",
    "is_ignored",
    "values_of",
    "write_classes",
]

CLASSES_FILE = "classes.txt"

BACKGROUND = "background"
"""The class of what no area covers, where a format has no name for it."""

IGNORED = "ignored"
"""What areas are called whose pixels have no class, where a format has no name for it."""

_BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__"})
_IGNORED_NAMES = frozenset({"ignore", "ignored", "_ignore_", "__ignore__", "void", "unlabeled", "unlabelled"})


def is_background(name: str) -> bool:
    """Whether a label says what lies outside of all areas."""
    return name.casefold() in _BACKGROUND_NAMES


def is_ignored(name: str) -> bool:
    """Whether a label says that pixels have no class."""
    return name.casefold() in _IGNORED_NAMES


@dataclass(frozen=True)
class Labels:
    """Which mask value a label has.

    Attributes:
        value_of: Of each label; 255 for those that say that pixels have no class.
        background: Of what no area covers; 255 if that has no class.
        classes: For the data set.
    """

    value_of: Mapping[str, int]
    background: int
    classes: KnownClasses

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        source: str,
        *,
        rest_ignored: bool = False,
        colors: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> "Labels":
        """Give labels the values 1, 2, ... in their order, and 0 to what no area covers.

        A label "background" (or _background_) means what no area covers; "ignore", "void" and the like mean 255.

        Args:
            labels: Each once.
            source: Whose labels they are, for messages.
            rest_ignored: Whether what no area covers has no class; then values begin at 0, and "background" is a
                class like others.
            colors: RGB of labels, if they have any.

        Raises:
            DataError: There are too many of them.
        """
        ignored = [name for name in labels if is_ignored(name)]
        named = [name for name in labels if is_background(name) and not rest_ignored]
        others = [name for name in labels if name not in {*ignored, *named}]
        names = others if rest_ignored else [named[0] if named else BACKGROUND, *others]
        if len(names) > MAX_CLASSES:
            raise DataError(f"{source}: expected at most {MAX_CLASSES} classes, got {len(names)}")
        given = colors or {}
        found = tuple(
            ClassEntry(name, value, given.get(name, default_color(value))) for value, name in enumerate(names)
        )
        value_of = {entry.name: entry.value for entry in found}
        value_of |= dict.fromkeys(named, 0)
        value_of |= dict.fromkeys(ignored, IGNORE_INDEX)
        background = IGNORE_INDEX if rest_ignored else 0
        return cls(value_of, background, KnownClasses(found, source))


def values_of(table: ClassTable) -> tuple[int, dict[int, int]]:
    """What `Labels.of` will give the classes of a table.

    Returns:
        The class index of the background, -1 if no class is called so; and the mask value of each class index.

    Raises:
        DataError: A class has a name that means "without a class".
    """
    for name in table.names:
        if is_ignored(name):
            raise DataError(
                f'class "{name}" would be read as pixels without a class in this format',
                hint="give the class another name with --classes, or leave its value out with --ignore",
            )
    background = next((i for i, name in enumerate(table.names) if is_background(name)), -1)
    others = [index for index in range(table.num_classes) if index != background]
    first = 0 if background < 0 else 1
    values = {index: first + place for place, index in enumerate(others)}
    return background, values | ({background: 0} if background >= 0 else {})


def write_classes(folder: Path, table: ClassTable, values: Mapping[int, int] | Iterable[int]) -> None:
    """Write `classes.txt`: names and colours by mask value.

    Args:
        folder: Where to.
        table: The classes.
        values: The mask value of each class index in this folder.
    """
    value_of = values if isinstance(values, Mapping) else dict(enumerate(values))
    lines = ["# index,name,r,g,b"]
    for index in sorted(value_of, key=lambda index: value_of[index]):
        entry = table.classes[index]
        lines.append(f"{value_of[index]},{entry.name},{','.join(map(str, entry.color))}")
    (folder / CLASSES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
