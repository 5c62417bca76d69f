"""Settings of training that do not go together, refused before anything is computed."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fullyconv.errors import UsageError

if TYPE_CHECKING:
    from fullyconv.config import TrainConfig

__all__ = ["INSTANT_ONLY", "MAPS_ONLY", "OF_STEPS", "refuse_contradictions"]

MAPS_ONLY: Mapping[str, Any] = {"train_on": "maps", "scales": (1.0,)}
"""What all decoders but the practical one need."""

INSTANT_ONLY: Mapping[str, Any] = {
    "decoder": "practical",
    "hidden": 0,
    "dropout": 0.0,
    "train_on": "points",
    "loss": "cross_entropy",
}
"""What the closed form needs."""

OF_STEPS = (
    *("epochs", "steps", "batch", "lr", "schedule", "weight_decay", "patience"),
    *("optimizer", "double_bias_lr", "accumulate", "clip", "ema", "train_encoder"),
)
"""What says how to take gradient steps, of which the closed form takes none."""

_FOR: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "hidden": ("decoder", ("practical",)),
    "dropout": ("decoder", ("practical",)),
    "upsampling": ("decoder", ("fcn", "fcn_at_once")),
    "fc": ("decoder", ("fcn", "fcn_at_once")),
    "width": ("decoder", ("lecture",)),
    "auxiliary": ("decoder", ("torchvision",)),
    "crop": ("train_on", ("maps",)),
    "epoch_steps": ("train_on", ("maps",)),
    "momentum": ("optimizer", ("sgd",)),
    "summed_loss": ("optimizer", ("sgd",)),
    **dict.fromkeys(("tune_scales", "tune_colours", "compile"), ("train_encoder", ("all",))),
    **dict.fromkeys(
        ("tune_epochs", "tune_lr", "encoder_lr", "live_statistics"),
        ("train_encoder", ("all", 4, 8, 16, 32)),
    ),
    **dict.fromkeys(OF_STEPS, ("instant", (False,))),
}
"""Settings that change something only with these values of another one."""

OF_CROPS = ("crop", "epoch_steps")
"""What matters, too, while the encoder is trained."""

LEAST_LR = 1e-8
"""Of a mean loss, with the momentum counted in: less is a rate of a summed loss."""


def refuse_contradictions(config: "TrainConfig") -> None:
    """Refuse settings that cannot be met together, and such as would change nothing.

    Raises:
        UsageError: The first contradiction.
    """
    if config.instant:
        _refuse_others(config, INSTANT_ONLY, "instant needs", "train without --instant")
    if config.loss == "dice":
        _refuse_others(config, {"balance": 0.0}, "loss dice weighs no classes: it needs", "choose another --loss")
    if config.loss.startswith("dice") and config.pixels:
        raise UsageError(
            f"loss {config.loss} needs every pixel, got pixels {config.pixels}",
            hint="add --train-on maps --pixels 0",
        )
    if config.epochs == 0 and config.train_encoder == "none":
        raise UsageError("epochs 0 trains nothing", hint="add --train-encoder all, or leave --epochs out")
    if config.epochs == 0:
        _refuse_of_warm_up(config)
    if config.summed_loss and config.loss.startswith("dice"):
        raise UsageError(f"loss {config.loss} is no sum over pixels", hint="leave --summed-loss out")
    if config.summed_loss and config.epochs and config.pixels:
        raise UsageError(
            f"a summed loss needs every pixel, got pixels {config.pixels}", hint="add --train-on maps --pixels 0"
        )
    _refuse_rate_of_summed_loss(config)
    if config.pixels == 0 and config.train_on == "points":
        raise UsageError("pixels 0 (every pixel) needs whole feature maps", hint="add --train-on maps")
    if config.decoder != "practical":
        _refuse_others(config, MAPS_ONLY, f"decoder {config.decoder} needs", "choose the decoder practical")
    if config.decoder == "lecture" and config.stride != 8:
        raise UsageError(f"decoder lecture needs stride 8, got {config.stride}", hint="leave --stride out")
    usual = config.channels == 3 and not config.value_range
    if not usual and config.train_encoder == "all" and config.tune_colours:
        raise UsageError("colours are changed of RGB images only", hint="add --no-tune-colours")
    if not usual and config.colour_views:
        raise UsageError("colours are changed of RGB images only", hint="leave --colour-views out")
    if config.rgb_0_to_1 and config.channels != 3:
        raise UsageError(f"rgb_0_to_1 is for RGB, got channels {config.channels}", hint="leave --rgb-0-to-1 out")
    _refuse_without_effect(config)


def _refuse_others(config: "TrainConfig", needed: Mapping[str, Any], rule: str, way_out: str) -> None:
    for name, value in needed.items():
        if getattr(config, name) != value:
            raise UsageError(
                f"{rule} {name} {_text(value)}, got {_text(getattr(config, name))}",
                hint=f"leave {_option(name)} out, or {way_out}",
            )


def _refuse_of_warm_up(config: "TrainConfig") -> None:
    """Refuse what would be of the phase with the fixed encoder, where there is none."""
    usual = {field.name: field.default for field in fields(config)}
    for name in ("lr", *(("view_scales", "colour_views") if config.train_encoder == "all" else ())):
        if getattr(config, name) != usual[name]:
            other = "tune_lr and encoder_lr" if name == "lr" else "tune_scales and tune_colours"
            raise UsageError(
                f"{name} is of epochs with the fixed encoder, got {_text(getattr(config, name))} with epochs 0",
                hint=f"set {other} instead",
            )


def _refuse_rate_of_summed_loss(config: "TrainConfig") -> None:
    """Refuse learning rates that nothing could be learned with: they were copied from a training on sums."""
    if config.summed_loss or config.instant:
        return
    held = 1 - config.momentum if config.optimizer == "sgd" else 1.0
    tuned = () if config.train_encoder == "none" else ("tune_lr", "encoder_lr")
    for name in (*(("lr",) if config.epochs else ()), *tuned):
        if getattr(config, name) / held <= LEAST_LR * (1 + 1e-9):
            raise UsageError(
                f"{name} {getattr(config, name):g} belongs to a loss summed over some 100,000 pixels; this "
                "one is their mean",
                hint="multiply it by the pixels of an image, or add --optimizer sgd --summed-loss",
            )


def _refuse_without_effect(config: "TrainConfig") -> None:
    usual = {field.name: field.default for field in fields(config)}
    for name, (other, values) in _FOR.items():
        if name in OF_CROPS and config.train_encoder != "none":
            continue
        if getattr(config, name) != usual[name] and getattr(config, other) not in values:
            rule = f"{other} {' or '.join(map(_text, values))}"
            raise UsageError(
                f"{name} changes something only with {rule}, "
                f"got {name} {_text(getattr(config, name))} with {other} {_text(getattr(config, other))}",
                hint=f"leave {_option(name)} out",
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
