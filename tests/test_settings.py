"""Settings from mappings and TOML: checked, with messages that name setting, value and file."""

from dataclasses import asdict

import pytest

from fullyconv.config import TrainConfig, config_from_mapping
from fullyconv.errors import UsageError
from fullyconv.settings import read_config, write_config


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(UsageError, match=r"unknown setting 'learning_rate' in run/config.toml \(known: encoder,"):
        config_from_mapping({"epochs": 3, "learning_rate": 1}, source="run/config.toml")


def test_numbers_may_be_given_as_text():
    config = config_from_mapping({"epochs": "3", "lr": "1e-3", "scales": ("1", "1.5"), "mirror": "no"})
    assert (config.epochs, config.lr, config.scales, config.mirror) == (3, 1e-3, (1.0, 1.5), False)


def test_settings_that_are_none_are_left_out_of_toml(tmp_path):
    write_config(TrainConfig(), tmp_path / "config.toml")
    written = read_config(tmp_path / "config.toml")
    assert [name for name in asdict(TrainConfig()) if name not in written] == ["classes", "threads"]


@pytest.mark.parametrize(
    "content", [b"epochs = ", b"classes = '\xff'", None], ids=["no TOML", "no UTF-8", "no file"]
)
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path, content):
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"config.toml has to be a readable TOML file: "):
        read_config(path)


def test_a_contradiction_with_a_file_of_settings_names_it():
    message = r"only with decoder fcn .* with decoder practical, with the settings of fcn/config.toml \(leave --fc"
    with pytest.raises(UsageError, match=message):
        config_from_mapping({"fc": True, "decoder": "practical"}, source="fcn/config.toml")
