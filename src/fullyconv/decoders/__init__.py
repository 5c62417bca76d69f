"""The decoders, found by name."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fullyconv.decoder import Decoder
from fullyconv.decoders.cae import CAEDecoder
from fullyconv.decoders.fcn import FCNDecoder
from fullyconv.decoders.lecture import LectureDecoder
from fullyconv.decoders.practical import PracticalDecoder
from fullyconv.encoder import FeatureSpec
from fullyconv.errors import UsageError

__all__ = ["DECODER_NAMES", "DEFAULT_STRIDES", "build_decoder", "decoder_options", "needed_strides"]

DECODERS: dict[str, Callable[..., Decoder]] = {
    "practical": PracticalDecoder,
    "fcn": FCNDecoder,
    "fcn_at_once": partial(FCNDecoder, at_once=True),
    "lecture": LectureDecoder,
    "cae": CAEDecoder,
}

DECODER_NAMES = tuple(DECODERS)
"""The names that `build_decoder` knows."""

STRIDES = {
    "practical": (4, 8, 16, 32),
    "fcn": (4, 8, 16, 32),
    "fcn_at_once": (8, 16, 32),
    "lecture": (8,),
    "cae": (2, 4, 8, 16, 32),
}
"""The finest strides that each decoder can read down to."""

DEFAULT_STRIDES = {"practical": 4, "fcn": 8, "fcn_at_once": 8, "lecture": 8, "cae": 4}
"""The finest stride that each decoder reads where none is asked for."""


def needed_strides(name: str, stride: int | None = None, given: Sequence[int] = (4, 8, 16, 32)) -> tuple[int, ...]:
    """Say at which strides a decoder reads features.

    Args:
        name: One of `DECODER_NAMES`.
        stride: The finest stride to read; by default that of `DEFAULT_STRIDES`. The lecture's network has no
            choice.
        given: The strides that the encoder has. The decoders practical and cae go as deep as it does.

    Returns:
        The strides from the finest to 32, or to the encoder's last, ascending: what the encoder has to give.

    Raises:
        UsageError: No such decoder, a stride that it cannot have, or an encoder that is not as deep.
    """
    _check_name(name)
    finest = DEFAULT_STRIDES[name] if stride is None else stride
    if finest not in STRIDES[name]:
        raise UsageError(
            f"decoder {name} has stride {' or '.join(map(str, STRIDES[name]))}, not {finest}",
            hint=f"leave it out for {DEFAULT_STRIDES[name]}",
        )
    if name in ("practical", "cae"):
        if finest not in given:
            raise UsageError(
                f"decoder {name} reads stride {finest}, the encoder has {', '.join(map(str, given))}",
                hint="choose one of these with --stride",
            )
        return tuple(step for step in given if step >= finest)
    return tuple(step for step in (4, 8, 16, 32) if step >= finest)


def build_decoder(name: str, specs: Sequence[FeatureSpec], num_classes: int, **config: Any) -> Decoder:
    """Build a decoder for an encoder's features.

    Args:
        name: One of `DECODER_NAMES`.
        specs: The encoder's features, in its order (`Encoder.specs`).
        num_classes: Channels of the logits.
        config: The decoder's own options, such as `Decoder.config` gives them.

    Raises:
        UsageError: No such decoder or option, or features that it cannot use.
    """
    _check_name(name)
    options = decoder_options(name)
    unknown = [option for option in config if option not in options]
    if unknown:
        raise UsageError(
            f"decoder {name} has no option {', '.join(unknown)}", hint=f"its options are {', '.join(options)}"
        )
    return DECODERS[name](specs, num_classes, **config)


def decoder_options(name: str) -> tuple[str, ...]:
    """The keyword arguments that `build_decoder` takes for a decoder."""
    parameters = inspect.signature(DECODERS[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "at_once")


def _check_name(name: str) -> None:
    if name not in DECODERS:
        raise UsageError(f"there is no decoder {name!r}", hint=f"choose one of {', '.join(DECODER_NAMES)}")
