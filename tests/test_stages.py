"""Outlines: paths, steps and words of networks that are made up here."""

import json

import pytest

from fullyconv.stages import FixedMap, Outline, Stage


def fixed_map(stride, scale=1.0):
    return FixedMap(f"pool{stride}", f"pool{stride}", scale, stride, 5, 9.0, 100, is_read=True)


def outline_with(*stages, strides=(8, 16)):
    return Outline("made", "up", 2, tuple(map(fixed_map, strides)), stages, 16, 200, 30)


COARSE = Stage("coarse", "conv", ("pool16",), 2, 16, kernel=1, activation="ReLU", note="dropout 0.5")
UP = Stage("up", "transposed conv", ("coarse",), 5, 8, kernel=4, factor=2, parameters=20)
SIDE = Stage("side", "score", ("pool8",), 5, 8, kernel=1)
SUM = Stage("up + side", "sum", ("up", "side"), 5, 8)
LAST = Stage("last", "transposed conv", ("up + side",), 2, 1, kernel=16, factor=8)


def test_the_main_path_goes_from_the_coarsest_features_to_the_logits():
    path = outline_with(COARSE, UP, SIDE, SUM, LAST).main_path
    assert [stage.name for stage in path] == ["coarse", "up", "up + side", "last"]


def test_a_drawing_is_built_up_by_the_coarse_path_and_then_sum_by_sum():
    outline = outline_with(COARSE, UP, SIDE, SUM, LAST)
    assert outline.steps == {"coarse": 2, "up": 3, "up + side": 3, "last": 3, "side": 3}
    assert outline.step_count == 3


def test_without_a_sum_there_are_two_steps():
    assert outline_with(COARSE, Stage("up", "upsample", ("coarse",), 2, 8, factor=2)).step_count == 2


def test_where_many_maps_are_summed_at_once_the_decoder_is_one_step():
    many = Stage("all", "sum", ("up", "side", "side"), 5, 8)
    assert outline_with(COARSE, UP, SIDE, many, LAST).steps == dict.fromkeys(
        ("coarse", "up", "side", "all", "last"), 2
    )


def test_side_branches_of_several_stages_come_with_their_sum():
    late = [SIDE, Stage("later", "norm", ("side",), 5, 8), Stage("all", "sum", ("up", "later"), 5, 8)]
    assert outline_with(COARSE, UP, *late).steps["side"] == 3


@pytest.mark.parametrize(
    ("stage", "formula"),
    [
        (COARSE, "1x1 convolution of pool16, ReLU, dropout 0.5"),
        (UP, "4x4 transposed convolution of coarse, x2"),
        (SUM, "up + side"),
        (Stage("sum", "sum", ("a", "b"), 2, 8, parameters=2), "a + b + bias"),
        (Stage("a", "upsample", ("b",), 2, 4, factor=8 / 1.5), "bilinear of b, x5.33"),
        (Stage("a", "scale", ("b",), 2, 4, factor=0.0001), "times 0.0001 of b"),
        (Stage("a", "whole", ("b", "c"), 2, 4), "decoder of b, c"),
        (Stage("a", "projection", ("b",), 2, 4, kernel=1), "batch norm, 1x1 convolution of b"),
    ],
)
def test_a_stage_says_in_one_line_what_it_computes(stage, formula):
    assert stage.formula == formula


def test_a_network_is_linear_if_it_is_known_and_has_no_activation():
    assert outline_with(SIDE).is_linear
    assert not outline_with(COARSE).is_linear
    assert not outline_with(Stage("all", "whole", ("pool8",), 2, 8)).is_linear


def test_an_outline_is_json():
    found = json.loads(json.dumps(outline_with(COARSE, UP, SIDE, SUM, LAST).to_json()))
    assert found["trained"]["stages"][2]["reads"] == ["pool8"]
    assert [stage["step"] for stage in found["trained"]["stages"]] == [2, 3, 3, 3, 3]
    assert found["fixed"]["maps"][1]["stride"] == 16
    assert found["output_stride"] == 1
