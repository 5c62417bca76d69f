"""Settings: complete, frozen, described, and the same after a round through TOML."""

import subprocess
import sys
import typing
from dataclasses import FrozenInstanceError, fields

import pytest
from pydantic import ValidationError

from fullyconv.config import PretrainConfig, TrainConfig, config_from_mapping, pretrain_config, recipe
from fullyconv.decoders import DECODER_NAMES
from fullyconv.encoders import ENCODER_NAMES
from fullyconv.errors import UsageError
from fullyconv.settings import read_config, write_config

# A value for each setting that is not its default. Whoever adds a setting has to find one that it replaces, or to
# argue for it.
OTHER = {
    "encoder": "vgg16",
    "encoder_weights": 'folder with "quotes" and ü/vgg16.pth',
    "decoder": "fcn",
    "stride": 16,
    "scales": (1.0,),
    "rgb_0_to_1": True,
    "channels": 4,
    "value_range": (0.0, 4095.0),
    "hidden": 0,
    "dropout": 0.1,
    "upsampling": "learned",
    "fc": True,
    "width": 512,
    "auxiliary": True,
    "instant": True,
    "train_on": "maps",
    "pixels": 0,
    "loss": "focal",
    "balance": 1.0,
    "mirror": False,
    "view_scales": (0.75, 1.0, 1.3),
    "colour_views": 2,
    "crop": 320,
    "epochs": 10,
    "steps": 0,
    "epoch_steps": 30,
    "batch": 8,
    "lr": 1e-3,
    "schedule": "constant",
    "optimizer": "sgd",
    "momentum": 0.99,
    "weight_decay": 0.0,
    "double_bias_lr": True,
    "summed_loss": True,
    "accumulate": 20,
    "clip": 1.0,
    "ema": 0.99,
    "train_encoder": "all",
    "tune_epochs": 3,
    "tune_lr": 1e-4,
    "encoder_lr": 1e-5,
    "tune_scales": (0.5, 2.0),
    "tune_colours": False,
    "live_statistics": True,
    "compile": True,
    "patience": 0,
    "val_fraction": 1 / 3,
    "ignore": (11, 12),
    "classes": "sky,road",
    "seed": 2**40,
    "threads": 2,
    "device": "cpu",
    "precision": "bfloat16",
}

STORED = ("channels", "value_range")

# Each of them together with the others that it goes with.
TOGETHER = {
    "fcn": set(OTHER) - {"hidden", "dropout", "width", "auxiliary", "instant", *STORED},
    "stored": {*STORED, "seed"},
    "practical": {"hidden", "dropout"},
    "lecture": {"decoder", "scales", "train_on", "width"},
    "torchvision": {"decoder", "scales", "train_on", "auxiliary"},
    "instant": {"instant", "hidden", "dropout", "balance", "view_scales", "seed"},
}


def together(name):
    values = {key: value for key, value in OTHER.items() if key in TOGETHER[name]}
    if "decoder" in values:
        values["decoder"] = name
    return values | {"instant": {"dropout": 0.0}, "lecture": {"stride": 8}}.get(name, {})


OTHER_PRETRAINING = {
    "preset": "digits",
    "channels": 4,
    "value_range": (-1000.0, 3000.0),
    "down": "pool",
    "start": "random",
    "noise": 0.1,
    "crop": 64,
    "epochs": 5,
    "steps": 0,
    "batch": 8,
    "lr": 1e-4,
    "weight_decay": 0.1,
    "val_fraction": 0.5,
    "seed": 3,
    "threads": 2,
    "device": "cpu",
}


def test_the_settings_are_these_and_a_new_one_has_to_replace_one_or_be_argued_for():
    assert [field.name for field in fields(TrainConfig)] == list(OTHER)
    assert [field.name for field in fields(PretrainConfig)] == list(OTHER_PRETRAINING)


@pytest.mark.parametrize("config", [TrainConfig, PretrainConfig])
def test_every_setting_has_a_default_and_a_description(config):
    hints = typing.get_type_hints(config, include_extras=True)
    for field in fields(config):
        description = typing.get_args(hints[field.name])[1].description
        assert description.endswith("."), field.name
        assert hasattr(config(), field.name)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 3


def test_an_unknown_setting_is_refused_in_python_too():
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainConfig(learning_rate=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", -1, "setting epochs: input should be greater than or equal to 0, got -1"),
        ("stride", 12, "setting stride: input should be 2, 4, 8, 16, 32 or None, got 12"),
        (
            "encoder",
            "resnet",
            "setting encoder: input should be 'efficientnet_lite0', .* 'cae:FILE', .* or 'hf:NAME', got 'resnet'",
        ),
        ("encoder", "cae:", "setting encoder: input should be .* 'cae:FILE', .*, got 'cae:'"),
        ("encoder", "timm:", "setting encoder: input should be .* 'timm:NAME' or 'hf:NAME', got 'timm:'"),
        ("encoder", "hf:NAME", "setting encoder: input should be .* or 'hf:NAME', got 'hf:NAME'"),
        ("decoder", "FCN", "setting decoder: input should be 'practical', 'fcn', .*, got 'FCN'"),
        ("scales", (1.0, 9.0), "setting scales.1: input should be less than or equal to 4, got 9.0"),
        ("scales", (), r"setting scales: tuple should have at least 1 item .* got \(\)"),
        ("lr", float("nan"), "setting lr: input should be greater than 0, got nan"),
        ("lr", "fast", "setting lr: input should be a valid number, .* got 'fast'"),
        ("ignore", (300,), "setting ignore.0: input should be less than or equal to 255, got 300"),
    ],
)
def test_a_value_that_a_setting_cannot_take_is_refused_with_the_rule(name, value, message):
    with pytest.raises(UsageError, match=message):
        config_from_mapping({name: value})


def test_the_other_values_differ_from_the_defaults():
    assert [name for name, value in OTHER.items() if value == getattr(TrainConfig(), name)] == []
    assert [n for n, value in OTHER_PRETRAINING.items() if value == getattr(PretrainConfig(), n)] == []


def test_every_setting_goes_together_with_some_others():
    assert set.union(*TOGETHER.values()) == set(OTHER)


@pytest.mark.parametrize("name", [None, *TOGETHER])
def test_settings_come_back_from_toml_as_they_were(tmp_path, name):
    config = TrainConfig(**(together(name) if name else {}))
    write_config(config, tmp_path / "config.toml")
    assert config_from_mapping(read_config(tmp_path / "config.toml")) == config


def test_settings_of_pretraining_come_back_from_toml_as_they_were(tmp_path):
    config = PretrainConfig(**OTHER_PRETRAINING)
    write_config(config, tmp_path / "config.toml")
    assert pretrain_config(read_config(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "vgg16"}, r"unknown setting 'encoder' in run/config.toml \(known: preset, channels,"),
        ({"noise": "2"}, "setting noise in run/config.toml: input should be less than or equal to 1, got '2'"),
    ],
)
def test_wrong_settings_of_pretraining_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        pretrain_config(values, source="run/config.toml")


def test_an_encoder_may_be_the_file_of_an_autoencoder(tmp_path):
    config = recipe(encoder="cae:runs/my cae/cae.safetensors")
    write_config(config, tmp_path / "config.toml")
    assert config_from_mapping(read_config(tmp_path / "config.toml")).encoder == config.encoder


@pytest.mark.parametrize(("decoder", "stride"), [("fcn", 8), ("fcn_at_once", 8), ("lecture", 8), ("cae", 4)])
def test_all_decoders_but_the_practical_one_imply_maps_of_one_scale_and_a_stride(decoder, stride):
    config = recipe(decoder=decoder)
    assert (config.train_on, config.scales, config.stride, config.pixels) == ("maps", (1.0,), stride, 4096)


@pytest.mark.parametrize("decoder", ["d2l", "torchvision"])
def test_decoders_without_skips_imply_the_coarsest_stride_of_the_encoder(decoder, tmp_path):
    config = recipe(decoder=decoder)
    assert (config.train_on, config.scales, config.stride) == ("maps", (1.0,), None)
    assert recipe(decoder=decoder, stride=8).stride == 8
    write_config(config, tmp_path / "config.toml")
    assert config_from_mapping(read_config(tmp_path / "config.toml")) == config


def test_the_names_of_encoders_and_decoders_are_those_that_can_be_built():
    hints = typing.get_type_hints(TrainConfig)
    assert typing.get_args(typing.get_args(hints["encoder"])[0]) == (
        *(*ENCODER_NAMES, "cae:FILE", "timm:NAME", "hf:NAME"),
    )
    assert typing.get_args(hints["decoder"]) == DECODER_NAMES


@pytest.mark.parametrize("name", ["default", "fast"])
@pytest.mark.parametrize("value", [True, "yes"])
def test_the_closed_form_implies_the_decoder_without_hidden_layer(name, value):
    config = recipe(name, instant=value)
    assert (config.instant, config.decoder, config.hidden, config.train_on) == (True, "practical", 0, "points")
    assert (config.scales, config.epochs) == (recipe(name).scales, TrainConfig().epochs)
    assert recipe(name, instant=False) == recipe(name)


def test_what_is_given_goes_before_what_is_implied():
    config = recipe(decoder="fcn", stride=32, epochs=2)
    assert (config.stride, config.epochs, config.train_on) == (32, 2, "maps")


@pytest.mark.parametrize(
    ("name", "value"), [("encoder", "cae:cae.safetensors"), ("encoder_weights", "my.pth"), ("classes", "list.txt")]
)
def test_paths_mean_the_same_file_in_every_folder(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").touch()
    path = str(tmp_path / value.removeprefix("cae:"))
    assert getattr(recipe(**{name: value}), name) == ("cae:" if name == "encoder" else "") + path


def test_a_name_of_another_library_is_no_path_but_a_folder_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("timm:resnet18.a1_in1k", "hf:facebook/dinov2-small"):
        assert recipe(encoder=name).encoder == name
    (tmp_path / "facebook" / "dinov2-small").mkdir(parents=True)
    assert recipe(encoder="hf:facebook/dinov2-small").encoder == f"hf:{tmp_path}/facebook/dinov2-small"


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert recipe(encoder="cae:~/cae.safetensors").encoder == "cae:/home/someone/cae.safetensors"


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoder", "vgg16"), ("encoder_weights", "none"), ("classes", "sky,road"), ("classes", None)],
)
def test_what_is_no_path_stays_as_it_is(name, value):
    assert getattr(recipe(**{name: value}), name) == value


def test_settings_are_read_without_torch():
    code = "import sys, fullyconv.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
