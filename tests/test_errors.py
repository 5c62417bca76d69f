"""Errors carry what went wrong, the way out, and the exit code."""

import pytest

from fullyconv import errors


def test_the_text_of_an_error_is_one_line_with_the_hint():
    assert str(errors.DataError("no mask for a.png", hint="add it")) == "no mask for a.png (add it)"


def test_without_a_hint_the_text_is_the_message():
    assert str(errors.TrainingError("the loss is nan")) == "the loss is nan"


@pytest.mark.parametrize(
    "name",
    ["UsageError", "DataError", "WeightsError", "ModelFileError"],
)
def test_wrong_usage_and_data_end_with_exit_code_2(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.FullyConvError)
    assert kind("x").exit_code == 2


def test_other_failures_end_with_exit_code_1():
    for kind in (errors.FullyConvError, errors.TrainingError, errors.DownloadError):
        assert kind("x").exit_code == 1


def test_a_download_that_failed_is_caught_as_missing_weights():
    assert issubclass(errors.DownloadError, errors.WeightsError)
