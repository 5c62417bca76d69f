"""The decoders, found by name."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fullyconv.decoder import Decoder
from fullyconv.decoders.cae import CAEDecoder
from fullyconv.decoders.d2l import D2LDecoder
from fullyconv.decoders.fcn import FCNDecoder
from fullyconv.decoders.lecture import LectureDecoder
from fullyconv.decoders.pad_100 import Pad100Decoder
from fullyconv.decoders.practical import PracticalDecoder
from fullyconv.decoders.torchvision import TorchvisionDecoder
from fullyconv.errors import UsageError
from fullyconv.taps import FeatureSpec, Tap

__all__ = ["DECODER_NAMES", "DEFAULT_STRIDES", "build_decoder", "decoder_options", "needed_strides"]

DECODERS: dict[str, Callable[..., Decoder]] = {
    "practical": PracticalDecoder,
    "fcn": FCNDecoder,
    "fcn_at_once": partial(FCNDecoder, at_once=True),
    "lecture": LectureDecoder,
    "d2l": D2LDecoder,
    "torchvision": TorchvisionDecoder,
    "cae": CAEDecoder,
}

DECODER_NAMES = tuple(DECODERS)
"""The names that training knows."""

RELEASED: dict[str, Callable[..., Decoder]] = {Pad100Decoder.name: Pad100Decoder}
"""Those of networks that others released, for encoders that pad as theirs did (`fullyconv.encoders.RELEASED`)."""

STRIDES = {
    "practical": (4, 8, 16, 32),
    "fcn": (4, 8, 16, 32),
    "fcn_at_once": (8, 16, 32),
    "lecture": (8,),
    "cae": (2, 4, 8, 16, 32),
}
"""The finest strides that decoders with skips can read down to."""

DEFAULT_STRIDES = {"practical": 4, "fcn": 8, "fcn_at_once": 8, "lecture": 8, "cae": 4}
"""The finest stride that each of them reads where none is asked for. The others read the encoder's coarsest."""


def needed_strides(
    name: str, taps: Sequence[Tap], stride: int | None = None, *, auxiliary: bool = False
) -> tuple[int, ...]:
    """Say at which strides a decoder reads the features of an encoder.

    `practical` and `cae` read each stride that the encoder has, from the finest that is asked for (`practical`
    from the encoder's finest where that is coarser). The paper's and
    the lecture's go up to 32, whether the encoder has these strides or not. `d2l` and `torchvision` read one.

    Args:
        name: One of `DECODER_NAMES`.
        taps: The encoder's, by depth (`EncoderNetwork.taps`).
        stride: The finest stride to read; by default that of `DEFAULT_STRIDES`, else the encoder's coarsest. The
            lecture's network has no choice.
        auxiliary: Whether `torchvision` has its auxiliary head, which reads the tap in front of the other one.

    Returns:
        Ascending strides for `Encoder`, which refuses those that its network does not have.

    Raises:
        UsageError: No such decoder, or a stride that it cannot have.
    """
    _check_name(name)
    if name not in STRIDES:
        coarsest = taps[-1].stride if stride is None else stride
        depth = max((place for place, tap in enumerate(taps) if tap.stride == coarsest), default=0)
        before = taps[max(0, depth - 1) : depth] if auxiliary else ()
        return (*(tap.stride for tap in before), coarsest)
    finest = DEFAULT_STRIDES[name] if stride is None else stride
    if finest not in STRIDES[name]:
        raise UsageError(
            f"decoder {name} has stride {' or '.join(map(str, STRIDES[name]))}, not {finest}",
            hint=f"leave it out for {DEFAULT_STRIDES[name]}",
        )
    if name == "practical":  # reads whatever there is: patches of a vision transformer have no finer stride
        finest = max(finest, taps[0].stride)
    family = [tap.stride for tap in taps] if name in ("practical", "cae") else [8, 16, 32]
    return tuple(sorted({finest, *(step for step in family if step > finest)}))


def build_decoder(name: str, specs: Sequence[FeatureSpec], num_classes: int, **config: Any) -> Decoder:
    """Build a decoder for an encoder's features.

    Args:
        name: One of `DECODER_NAMES` or `RELEASED`.
        specs: The encoder's features, in its order (`Encoder.specs`).
        num_classes: Channels of the logits.
        config: The decoder's own options, such as `Decoder.config` gives them.

    Raises:
        UsageError: No such decoder or option, or features that it cannot use.
    """
    if name not in RELEASED:
        _check_name(name)
    options = decoder_options(name)
    unknown = [option for option in config if option not in options]
    if unknown:
        raise UsageError(
            f"decoder {name} has no option {', '.join(unknown)}",
            hint=f"its options are {', '.join(options) or 'none'}",
        )
    return (DECODERS | RELEASED)[name](specs, num_classes, **config)


def decoder_options(name: str) -> tuple[str, ...]:
    """The keyword arguments that `build_decoder` takes for a decoder."""
    parameters = inspect.signature((DECODERS | RELEASED)[name]).parameters.values()
    return tuple(
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY and (name in RELEASED or p.name != "at_once")
    )


def _check_name(name: str) -> None:
    if name not in DECODERS:
        raise UsageError(f"there is no decoder {name!r}", hint=f"choose one of {', '.join(DECODER_NAMES)}")
