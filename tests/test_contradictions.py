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
    "epoch_steps": ({"epoch_steps": 30}, "train_on maps, got epoch_steps 30 with train_on points"),
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
