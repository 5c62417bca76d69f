"""The form in which images come to a network: how many channels, and which values are black and white."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DataError, UsageError, show_path
from fullyconv.images import image_size, read_image, verify_image
from fullyconv.shapes import Image, Pixels, Size
from fullyconv.stored import CHANNELS_HINT, read_stored, stored_size

__all__ = ["RGB", "ImageForm", "shown"]

MOST_CHANNELS = 64

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True)
class ImageForm:
    """How the numbers in image files become what a network is fed.

    The usual form, `RGB`, turns every file into 8-bit RGB (`fullyconv.images`). Any other takes the channels that
    are stored, as many as it says, and turns `value_range` linearly into 0..255, not rounded; what lies outside is
    clipped.

    Attributes:
        channels: How many an image has to have, 1..64.
        value_range: The stored values that become 0 and 255; None for all that 8 or 16 bits hold.

    Raises:
        UsageError: A number of channels or a range that cannot be.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise UsageError(f"channels have to be 1..{MOST_CHANNELS}, got {self.channels}")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(f"a value range has to be two numbers that rise, got {low:g},{high:g}")

    @property
    def is_usual(self) -> bool:
        """Whether images are 8-bit RGB, whatever the files hold."""
        return self == RGB

    @classmethod
    def of(cls, channels: int, value_range: Sequence[float] | None) -> "ImageForm":
        """Make one of two settings; an empty range is none."""
        if not value_range:
            return cls(channels)
        low, high = value_range
        return cls(channels, (low, high))

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> "ImageForm":
        """The inverse of `to_json`; None is the usual form."""
        return RGB if values is None else cls.of(values["channels"], values["value_range"])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "channels": self.channels,
            "value_range": None if self.value_range is None else list(self.value_range),
        }

    def __str__(self) -> str:
        span = "the whole range" if self.value_range is None else "{:g}..{:g}".format(*self.value_range)
        return "8-bit RGB" if self.is_usual else f"{self.channels} channels as stored, {span} as 0..255"

    def read(self, path: str | Path) -> Pixels:
        """Read an image, upright by its EXIF orientation.

        Returns:
            H x W x 3 uint8 RGB in the usual form, H x W x channels float32 in 0..255 in any other.

        Raises:
            DataError: The file cannot be read, or is not of this form.
        """
        return (
            read_image(path) if self.is_usual else self.scaled(read_stored(path, self.channels), show_path(path))
        )

    def size(self, path: str | Path) -> Size:
        """The (height, width) of what `read` gives, from the header."""
        return image_size(path) if self.is_usual else stored_size(path)

    def verify(self, path: str | Path) -> Size:
        """Decode an image to see that it can be read, at the least cost.

        Returns:
            (height, width), upright.

        Raises:
            DataError: `read` would fail as well.
        """
        if self.is_usual:
            return verify_image(path)
        height, width = self.read(path).shape[:2]
        return height, width

    def scaled(self, values: npt.NDArray[Any], where: str = "image") -> Pixels:
        """Turn stored values into what a network is fed; not for the usual form.

        Args:
            values: H x W x channels, integers or floats.
            where: Their name for messages.

        Returns:
            H x W x channels float32, 0..255.

        Raises:
            DataError: Another number of channels, values without an agreed range, or such that are no numbers.
        """
        if values.ndim != 3 or values.shape[2] != self.channels:
            got = f"{values.shape[2]}" if values.ndim == 3 else f"an array {list(values.shape)}"
            raise DataError(
                f"{where}: expected {self.channels} channels, got {got}",
                hint=CHANNELS_HINT,
            )
        span = self.value_range or _RANGES.get(values.dtype.name)
        if span is None or values.dtype.kind not in "iuf":
            raise DataError(
                f"{where}: expected values of 8 or 16 bits, got {values.dtype}",
                hint="say which values are black and white with --value-range LOW,HIGH",
            )
        # 8 and 16 bits are exact in float32, which is half the memory.
        found: npt.NDArray[Any] = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
        if not np.isfinite(found).all():
            raise DataError(
                f"{where}: expected numbers, got {int((~np.isfinite(found)).sum())} values that are none",
                hint="fill them with a value of the range",
            )
        shares = (np.clip(found, *span) - span[0]) / (span[1] - span[0])
        pixels: Pixels = np.clip(shares * 255, 0, 255).astype(np.float32)
        return pixels


RGB = ImageForm()
"""8-bit RGB, whatever the files hold."""


def shown(image: Pixels) -> Image:
    """Make an image of any form one that can be looked at: H x W x 3 uint8.

    Of three channels and more the first three are red, green and blue; of fewer the first one is grey.
    """
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return image
    colors = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    return np.rint(colors).astype(np.uint8)
