"""Recipes: each is valid, and can be changed."""

from dataclasses import replace

import pytest

from fullyconv.config import TrainConfig, recipe
from fullyconv.errors import UsageError
from fullyconv.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid(name):
    config = recipe(name)
    assert config == TrainConfig(**RECIPES[name])


def test_the_default_recipe_is_the_defaults():
    assert recipe() == TrainConfig()


def test_a_recipe_can_be_changed():
    assert recipe("fast", epochs=3) == replace(recipe("fast"), epochs=3)


def test_an_unknown_recipe_is_refused_naming_the_known_ones():
    with pytest.raises(UsageError, match="one of default, fast, tuned, lecture-exact, got 'quick'"):
        recipe("quick")


def test_a_recipe_of_the_practical_decoder_is_refused_for_another():
    with pytest.raises(UsageError, match=r"recipe fast is for the decoder practical, got fcn \(leave it out\)"):
        recipe("fast", decoder="fcn")
