"""Where a network is read, and what one cell sees there."""

from dataclasses import dataclass

__all__ = ["FeatureSpec", "ReceptiveField", "Tap"]


@dataclass(frozen=True)
class ReceptiveField:
    """The square of input pixels that one cell sees, composed layer by layer.

    Attributes:
        size: Side of the square in pixels.
        stride: Pixels between the squares of neighbouring cells.
        start: First row and column of the square of cell (0, 0); below 0 where it sees padding.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def through(self, kernel: int, stride: int = 1, dilation: int = 1, *, padding: int) -> "ReceptiveField":
        """The field after one more convolution or pooling, with so many cells of padding at the top and left."""
        return ReceptiveField(
            self.size + (kernel - 1) * dilation * self.stride,
            self.stride * stride,
            self.start - padding * self.stride,
        )


@dataclass(frozen=True)
class Tap:
    """A place in a network where features are read.

    Attributes:
        name: The layer's name in its paper, such as "maxp3".
        stride: Input pixels between neighbouring cells.
        channels: Channels of the feature map.
        receptive_field: Side of the square of input pixels that one cell sees.
        field_start: First row and column of the square that cell (0, 0) sees, 0 or less.
    """

    name: str
    stride: int
    channels: int
    receptive_field: int
    field_start: int = 0

    @classmethod
    def seeing(cls, name: str, field: ReceptiveField, channels: int) -> "Tap":
        """A tap behind layers with this field."""
        return cls(name, field.stride, channels, field.size, field.start)


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map that an encoder gives: a tap, seen at a scale of the image.

    Attributes:
        tap: Where it is read.
        scale: The factor by which the image is enlarged before the network.
    """

    tap: Tap
    scale: float = 1.0

    @property
    def label(self) -> str:
        """A name for people: the tap's, with the scale where it is not 1, such as "maxp3" or "stage5@1.5"."""
        return self.tap.name if self.scale == 1 else f"{self.tap.name}@{self.scale:g}"

    @property
    def stride(self) -> float:
        """Pixels of the *original* image between neighbouring cells."""
        return self.tap.stride / self.scale

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.tap.channels
