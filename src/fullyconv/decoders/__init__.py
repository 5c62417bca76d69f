"""The decoders, found by name."""

from collections.abc import Sequence
from typing import Any

from fullyconv.decoder import Decoder
from fullyconv.decoders.practical import PracticalDecoder
from fullyconv.encoder import FeatureSpec
from fullyconv.errors import UsageError

__all__ = ["DECODER_NAMES", "DEFAULT_STRIDES", "build_decoder", "needed_strides"]

DECODER_NAMES = ("practical", "fcn", "fcn_at_once", "lecture")
"""The names that `build_decoder` knows."""

DEFAULT_STRIDES = {"practical": 4, "fcn": 8, "fcn_at_once": 8, "lecture": 8}
"""The finest stride that each decoder reads where none is asked for."""


def needed_strides(name: str, stride: int | None = None) -> tuple[int, ...]:
    """Say at which strides a decoder reads features.

    Args:
        name: One of `DECODER_NAMES`.
        stride: The finest stride to read: 4, 8, 16 or 32; by default that of `DEFAULT_STRIDES`.

    Returns:
        The strides from the finest to 32, ascending: what the encoder has to give.

    Raises:
        UsageError: No such decoder, or a stride that it cannot have.
    """
    _check_name(name)
    finest = DEFAULT_STRIDES[name] if stride is None else stride
    allowed = (8,) if name == "lecture" else (4, 8, 16, 32)
    if finest not in allowed:
        raise UsageError(
            f"decoder {name} reads features down to stride {' or '.join(map(str, allowed))}, not {finest}",
            hint=f"leave the stride out for {DEFAULT_STRIDES[name]}",
        )
    return tuple(step for step in (4, 8, 16, 32) if step >= finest)


def build_decoder(name: str, specs: Sequence[FeatureSpec], num_classes: int, **config: Any) -> Decoder:
    """Build a decoder for an encoder's features.

    Args:
        name: One of `DECODER_NAMES`.
        specs: The encoder's features, in its order (`Encoder.specs`).
        num_classes: Channels of the logits.
        config: The decoder's own settings, such as `Decoder.config` gives them.

    Raises:
        UsageError: No such decoder or setting, or features that it cannot use.
    """
    _check_name(name)
    try:
        return PracticalDecoder(specs, num_classes, **config)
    except TypeError as error:
        raise UsageError(f"decoder {name} was given settings that it does not have: {error}") from error


def _check_name(name: str) -> None:
    if name not in DECODER_NAMES:
        raise UsageError(f"there is no decoder {name!r}", hint=f"choose one of {', '.join(DECODER_NAMES)}")
