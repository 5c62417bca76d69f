"""What masks hold, whatever it means: values in words, grey saved as RGB, colours as numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DataError

__all__ = ["first_where", "one_channel", "packed", "value_text"]


def value_text(values: Iterable[int]) -> str:
    """Mask values for a message, three or more in a row shortened: "0..4, 6, 7"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def packed(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """... x 3 colours as ... numbers 0xRRGGBB."""
    return colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)


def one_channel(array: npt.NDArray[np.uint8], where: str | Path) -> npt.NDArray[np.uint8]:
    """The values of a mask that may be grey saved as RGB.

    Args:
        array: H x W or H x W x 3, uint8.
        where: The mask's name for messages.

    Returns:
        H x W uint8.

    Raises:
        DataError: The channels of a pixel differ.
    """
    if array.ndim == 2:
        return array
    colored = (array != array[..., :1]).any(axis=2)
    if colored.any():
        code, pixels = first_where(colored, packed(array))
        raise DataError(
            f"{where}: expected a mask with a class value a pixel, got an RGB mask with colour "
            f"{code >> 16},{code >> 8 & 255},{code & 255} ({pixels})",
            hint="RGB masks need a classes.txt with a line index,name,r,g,b for each colour",
        )
    return array[..., 0]


def first_where(wrong: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> tuple[int, str]:
    """The first wrong value in reading order; how many pixels have it and where it is, in words."""
    row, column = (int(place) for place in np.unravel_index(int(wrong.argmax()), wrong.shape))
    value = values[row, column]
    return int(value), f"{int((values == value).sum())} pixels, first at row {row}, column {column}"
