"""Options made from settings: what the command line offers is what the dataclass says."""

import inspect
from dataclasses import fields
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from fullyconv.config import TrainConfig
from fullyconv.errors import UsageError
from fullyconv.options import parsed, parsed_size, with_options


@dataclass(frozen=True)
class Settings:
    size: Annotated[int, Field(ge=1, description="How large.")] = 3
    kind: Annotated[Literal["a", "b"], Field(description="Which kind.")] = "a"
    step: Annotated[Literal[4, 8, None], Field(description="How far.")] = 4
    wide: Annotated[bool, Field(description="Whether wide.")] = True
    scales: Annotated[tuple[float, ...], Field(description="Which scales.")] = (1.0, 1.5)
    name: Annotated[str | None, Field(description="What it is called.")] = None


def options_of(*arguments):
    @with_options(*arguments)
    def command(data: str, **options):
        """Do it."""

    parameters = dict(inspect.signature(command).parameters)
    assert next(iter(parameters)) == "data"
    return {name: p.annotation.__metadata__[0] for name, p in parameters.items() if name != "data"}


def test_each_field_has_an_option_with_its_text_and_default():
    options = options_of(Settings)
    assert list(options) == [field.name for field in fields(Settings)]
    assert [option.help for option in options.values()][:2] == ["How large.", "Which kind."]
    assert [option.show_default for option in options.values()] == ["3", "a", "4", "on", "1,1.5", False]
    assert [option.metavar for option in options.values()] == ["N", "a|b", "4|8", None, "N,N,...", "TEXT"]
    assert [options[name].default for name in ("size", "wide")] == ["--size", "--wide/--no-wide"]


def test_fields_can_be_chosen():
    assert set(options_of(Settings, ("kind", "wide"))) == {"kind", "wide"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "7", "7"),  # pydantic makes the number, and says what is wrong with it
        ("kind", "b", "b"),
        ("step", "8", 8),
        ("step", "far", "far"),
        ("wide", False, False),
        ("scales", "1, 2,", ("1", "2")),
        ("name", "4", "4"),
    ],
)
def test_texts_become_what_the_settings_take(name, text, value):
    assert parsed(Settings, {name: text}) == {name: value}


def test_what_was_not_given_is_left_out():
    assert parsed(TrainConfig, {"epochs": None, "mirror": None, "lr": "0.1"}) == {"lr": "0.1"}


def test_a_size_is_height_x_width():
    assert parsed_size("160x576") == parsed_size("160X576") == (160, 576)


@pytest.mark.parametrize("text", ["160", "160x", "axb", "1x2x3", "-1x2", "²x3"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="--size has to be HEIGHTxWIDTH in pixels, got"):
        parsed_size(text)
