"""Settings of training that do not go together are refused, those that would change nothing among them."""

from dataclasses import replace

import pytest

from fullyconv.config import TrainConfig, recipe
from fullyconv.errors import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixels": 0}, r"pixels 0 \(every pixel\) needs whole feature maps \(add --train-on maps\)"),
        ({"loss": "dice"}, r"loss dice needs every pixel, got pixels 512 \(add --train-on maps --pixels 0\)"),
        (
            {"decoder": "fcn", "train_on": "points"},
            r"decoder fcn needs train_on maps, got points \(leave --train-on",
        ),
        ({"decoder": "fcn", "scales": (1.0, 1.5)}, "decoder fcn needs scales 1, got 1,1.5"),
        (
            {"instant": True, "hidden": 32},
            r"instant needs hidden 0, got 32 \(leave --hidden out, or train without",
        ),
        ({"instant": True, "decoder": "fcn"}, r"instant needs decoder practical, got fcn \(leave --decoder out"),
        ({"instant": True, "train_on": "maps"}, "instant needs train_on points, got maps"),
        ({"decoder": "lecture", "stride": 16}, r"decoder lecture needs stride 8, got 16 \(leave --stride out\)"),
        (
            {"epochs": 0, "train_encoder": "all", "lr": 1e-4},
            r"lr is of epochs with the fixed encoder, got 0.0001 with epochs 0 \(set tune_lr and encoder",
        ),
        (
            {"epochs": 0, "train_encoder": "all", "colour_views": 1},
            "colour_views is of epochs with the fixed encoder, got 1",
        ),
        (
            {"summed_loss": True, "optimizer": "sgd", "loss": "dice", "train_on": "maps", "pixels": 0},
            "loss dice is no sum over pixels",
        ),
        ({"epochs": 0}, r"epochs 0 trains nothing \(add --train-encoder all"),
        (
            {"summed_loss": True, "optimizer": "sgd"},
            r"a summed loss needs every pixel, got pixels 512 \(add --train-on maps --pixels 0\)",
        ),
        (
            {"lr": 1e-10, "optimizer": "sgd", "momentum": 0.99},
            "lr 1e-10 belongs to a loss summed over some 100,000 pixels; this one is their mean .multiply it by",
        ),
        ({"encoder_lr": 1e-12, "train_encoder": "all"}, "encoder_lr 1e-12 belongs to a loss summed"),
        (
            {"channels": 4, "train_encoder": "all"},
            r"colours are changed of RGB images only \(add --no-tune-colours",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        recipe(**values)


ONLY_WITH = {
    "hidden": ({"decoder": "fcn", "hidden": 32}, "decoder practical, got hidden 32 with decoder fcn"),
    "dropout": ({"decoder": "lecture", "dropout": 0.0}, "decoder practical, got dropout 0.0 with decoder lecture"),
    "upsampling": (
        {"decoder": "d2l", "upsampling": "learned"},
        "decoder fcn or fcn_at_once, got upsampling learned with decoder d2l",
    ),
    "fc": ({"fc": True}, "decoder fcn or fcn_at_once, got fc on with decoder practical"),
    "width": ({"decoder": "cae", "width": 9}, "decoder lecture, got width 9 with decoder cae"),
    "auxiliary": ({"auxiliary": True}, "decoder torchvision, got auxiliary on with decoder practical"),
    "crop": ({"crop": 64}, "train_on maps, got crop 64 with train_on points"),
    "momentum": ({"momentum": 0.5}, "optimizer sgd, got momentum 0.5 with optimizer adamw"),
    "summed_loss": (
        {"summed_loss": True, "train_on": "maps", "pixels": 0},
        "optimizer sgd, got summed_loss on with optimizer adamw",
    ),
    **{
        name: (
            {name: value, "train_encoder": 16},
            f"train_encoder all, got {name} {shown} with train_encoder 16",
        )
        for name, value, shown in (
            ("tune_scales", (0.5, 1.0), "0.5,1"),
            ("tune_colours", False, "off"),
            ("compile", True, "on"),
        )
    },
    **{
        name: ({name: value}, f"train_encoder all or 4 or 8 or 16 or 32, got {name} .* with train_encoder none")
        for name, value in {
            "tune_epochs": 3,
            "tune_lr": 0.1,
            "encoder_lr": 0.1,
            "live_statistics": True,
        }.items()
    },
    "epoch_steps": ({"epoch_steps": 30}, "train_on maps, got epoch_steps 30 with train_on points"),
    "double_bias_lr": (
        {"instant": True, "double_bias_lr": True},
        "instant off, got double_bias_lr on with instant on",
    ),
    **{
        name: ({"instant": True, name: value}, f"instant off, got {name} {value} with instant on")
        for name, value in {
            "epochs": 10,
            "steps": 0,
            "batch": 8,
            "lr": 0.1,
            "schedule": "constant",
            "weight_decay": 0.0,
            "patience": 3,
            "optimizer": "sgd",
            "accumulate": 2,
            "clip": 1.0,
            "ema": 0.5,
            "train_encoder": 16,
        }.items()
    },
}


@pytest.mark.parametrize(("name", "values", "message"), [(name, *case) for name, case in ONLY_WITH.items()])
def test_settings_that_would_change_nothing_are_refused(name, values, message):
    way_out = f"leave --{name.replace('_', '-')} out"
    with pytest.raises(UsageError, match=rf"{name} changes something only with {message} \({way_out}\)"):
        recipe(**values)


def test_dice_alone_weighs_no_classes():
    maps = {"loss": "dice", "train_on": "maps", "pixels": 0}
    assert recipe(**maps).balance == 0
    assert recipe(**{**maps, "loss": "dice+cross_entropy"}, balance=1).balance == 1
    message = (
        r"loss dice weighs no classes: it needs balance 0.0, got 1.0 \(leave --balance out, or choose another"
    )
    with pytest.raises(UsageError, match=message):
        recipe(**maps, balance=1)


def test_contradictions_are_refused_in_python_too():
    with pytest.raises(UsageError, match="decoder fcn needs train_on maps, got points"):
        TrainConfig(decoder="fcn")
    with pytest.raises(UsageError, match=r"pixels 0 \(every pixel\) needs whole feature maps"):
        replace(TrainConfig(), pixels=0)
    with pytest.raises(UsageError, match="instant needs hidden 0, got 128"):
        TrainConfig(instant=True)
