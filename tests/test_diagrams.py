"""Figures of networks: everything is named, nothing overlaps, and they are built up in place."""

import itertools
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle

from fullyconv.diagrams import draw
from fullyconv.errors import UsageError
from fullyconv.pictures import save_picture
from fullyconv.stages import FixedMap, Outline, Sizes, Stage


def maps(*strides, scale=1.0, read=None):
    return tuple(
        FixedMap(
            f"maxp{s.bit_length() - 1}" + ("" if scale == 1 else f"@{scale:g}"),
            f"maxp{s.bit_length() - 1}",
            scale,
            s,
            min(64 * s, 512),
            6.0 * s / scale,
            1_475_328,
            is_read=read is None or s in read,
        )
        for s in strides
    )


def network(fixed, *stages):
    return Outline("vgg16", "made_up", 21, fixed, stages, 32, 14_714_688, 121_799_428)


def layer(name, kind, reads, channels, stride, **more):
    return Stage(name, kind, tuple(reads.split(", ")), channels, stride, **more)


def lecture():
    return network(
        maps(4, 8, 16, 32, read=(8, 16, 32)),
        layer("conv6", "conv", "maxp5", 4096, 32, kernel=7, parameters=102_764_544, activation="ReLU"),
        layer("fcn4", "conv", "conv6", 4096, 32, kernel=1, parameters=16_781_312, activation="ReLU"),
        layer("fcn3", "conv", "fcn4", 2, 32, kernel=1, parameters=8_194),
        layer("fcn2", "transposed conv", "fcn3", 512, 16, kernel=4, factor=2, parameters=16_896),
        layer("fcn2 + maxp4", "sum", "fcn2, maxp4", 512, 16),
        layer("fcn1", "transposed conv", "fcn2 + maxp4", 256, 8, kernel=4, factor=2, parameters=2_097_408),
        layer("fcn1 + maxp3", "sum", "fcn1, maxp3", 256, 8),
        layer("output", "transposed conv", "fcn1 + maxp3", 2, 1, kernel=16, factor=8, parameters=131_074),
    )


def paper(strides=(4, 8, 16, 32), *, learned=False):
    stages = [
        layer("fc6", "conv", "maxp5", 4096, 32, kernel=7),
        layer("score_fr", "score", "fc6", 21, 32, kernel=1),
    ]
    for stride in reversed(strides[:-1]):
        level, before = stride.bit_length() - 1, stages[-1].name
        stages += [
            layer(f"upscore_pool{level + 1}", "upsample", before, 21, stride, factor=2),
            layer(f"scale_pool{level}", "scale", f"maxp{level}", 512, stride, factor=0.0001),
            layer(f"score_pool{level}", "score", f"scale_pool{level}", 21, stride, kernel=1),
            layer(f"fuse_pool{level}", "sum", f"upscore_pool{level + 1}, score_pool{level}", 21, stride),
        ]
    if learned:
        stride = strides[0]
        last = layer("upscore", "transposed conv", stages[-1].name, 21, 1, kernel=2 * stride, factor=stride)
        stages.append(last)
    return network(maps(4, 8, 16, 32, read=strides), *stages)


def practical(*scales, strides=(4, 8, 16, 32), hidden=True):
    fixed = tuple(itertools.chain(*(maps(4, 8, 16, 32, scale=scale, read=strides) for scale in scales)))
    stages, ends = [], []
    for found in fixed:
        if not found.is_read:
            continue
        skip, ends = f"skip_{found.label}", [f"up_{found.label}", *ends]
        stages.append(layer(skip, "projection", found.label, 128, found.stride, kernel=1, parameters=41_600))
        stages.append(layer(ends[0], "upsample", skip, 128, strides[0], factor=found.stride / strides[0]))
    if not hidden:
        return network(fixed, *stages, layer("sum", "sum", ", ".join(ends), 21, strides[0], parameters=21))
    total = layer("sum", "sum", ", ".join(ends), 128, strides[0], activation="ReLU", note="dropout 0.3")
    return network(fixed, *stages, total, layer("score", "score", "sum", 21, strides[0], kernel=1))


NETWORKS = {
    "lecture": lecture(),
    "autoencoder": network(
        maps(2, 4, 8),
        layer("up2", "transposed conv", "maxp3", 64, 4, kernel=3, factor=2, activation="ReLU"),
        layer("side", "conv", "maxp2", 64, 4, kernel=1),
        layer("up2 + side", "sum", "up2, side", 64, 4),
        layer("last", "conv", "up2 + side", 21, 4, kernel=3),
    ),
    "FCN-32s": paper((32,)),
    "FCN-16s": paper((16, 32)),
    "FCN-4s": paper(),
    "FCN-8s, learned": paper((8, 16, 32), learned=True),
    "practical": practical(1.0, 1.5),
    "practical, one scale": practical(1.0),
    "practical, two maps": practical(1.0, strides=(16, 32), hidden=False),
    "practical, one map": practical(1.0, strides=(32,), hidden=False),
    "many at once on the way": network(
        maps(4, 8, 16),
        layer("fine", "sum", "maxp4, maxp3, maxp2", 64, 4),
        layer("side", "conv", "maxp2", 64, 4, kernel=1),
        layer("finer", "sum", "fine, side", 64, 4),
        layer("last", "score", "finer", 21, 4, kernel=1),
        layer("more", "conv", "last", 21, 4, kernel=3),
    ),
    "says nothing": network(maps(4, 8, 16, 32), layer("own", "whole", "maxp2, maxp3, maxp4, maxp5", 21, 4)),
}


@pytest.fixture(params=NETWORKS)
def outline(request):
    return NETWORKS[request.param]


def sizes_in(outline):
    cells = dict.fromkeys((*(f.label for f in outline.fixed), *(s.name for s in outline.stages)), (1440, 1920))
    return Sizes((1440, 1920), {1.0: (1440, 1920), 1.5: (2160, 2880)}, {}, cells, (1440, 1920))


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_every_map_and_layer_is_named(outline):
    text = "\n".join(words(draw(outline)))
    for found in outline.fixed:
        assert found.label in text
    for stage in outline.stages:
        if stage.kind not in ("sum", "upsample", "projection", "scale") and stage.name != "side":
            assert stage.name in text or "prediction" in text, stage.name
    assert "Fixed" in text
    assert "Trained" in text


@pytest.mark.parametrize("with_sizes", [False, True])
def test_no_words_overlap_or_leave_the_sheet(outline, with_sizes):
    figure = draw(outline, sizes_in(outline) if with_sizes else None)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts if text.get_text()
    ]
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    for (one, left), (other, right) in itertools.combinations(boxes, 2):
        apart = left.x1 <= right.x0 or right.x1 <= left.x0 or left.y1 <= right.y0 + 1 or right.y1 <= left.y0 + 1
        assert apart, (one, other)


def test_no_layer_on_the_way_is_left_out_whatever_it_is():
    path = (("score", "score", "maxp5"), ("between", "conv", "score"), ("up", "upsample", "between"))
    text = words(draw(network(maps(32), *(layer(*stage, 21, 32, kernel=1) for stage in path))))
    assert {"score", "between", "up"} <= set(text)


def test_the_lectures_figure_has_the_decks_words_and_two_sums():
    figure = draw(lecture())
    assert {"Fixed", "Trained", "maxp3", "maxp4", "fcn4", "fcn3", "fcn2", "fcn1", "output"} <= set(words(figure))
    assert {"fcn2 + maxp4", "fcn1 + maxp3", "H/8 × W/8"} <= set(words(figure))  # noqa: RUF001
    assert sum(isinstance(patch, Circle) for patch in figure.axes[0].patches) == 2


@pytest.mark.parametrize("stride", [32, 16, 8, 4])
def test_the_papers_figure_carries_the_papers_name(stride):
    strides = tuple(step for step in (4, 8, 16, 32) if step >= stride)
    assert {f"{stride}x upsampled", f"(FCN-{stride}s)"} <= set(words(draw(paper(strides))))


def test_a_dilated_network_is_not_called_by_the_papers_name():
    fixed = (replace(maps(8)[0], label="layer4"),)
    figure = draw(network(fixed, layer("classifier", "score", "layer4", 21, 8, kernel=1)))
    assert "8x upsampled" in words(figure)
    assert not [text for text in words(figure) if "FCN-" in text]


def test_sizes_of_an_image_take_the_place_of_parts_of_it(outline):
    text = "\n".join(words(draw(outline, sizes_in(outline))))
    assert "1440 × 1920" in text  # noqa: RUF001
    assert "H/" not in text


def test_a_step_leaves_everything_in_its_place_and_what_comes_later_pale():
    whole = draw(lecture()).axes[0].texts
    for step, pale in (
        (1, {"conv6", "fcn3", "fcn2", "fcn1", "output"}),
        (2, {"fcn2", "fcn1"}),
        (3, {"fcn1"}),
        (4, set()),
    ):
        texts = draw(lecture(), step=step).axes[0].texts
        assert [(t.get_text(), t.get_position()) for t in texts] == [
            (t.get_text(), t.get_position()) for t in whole
        ]
        colors = {text.get_text(): text.get_color() for text in texts}
        ink = {name: colors[name] == colors["maxp3"] for name in ("conv6", "fcn3", "fcn2", "fcn1", "output")}
        assert {name for name, is_ink in ink.items() if not is_ink} >= pale
        assert not {name for name, is_ink in ink.items() if not is_ink} - pale - {"output"}


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_that_there_is_not_is_refused(step):
    with pytest.raises(UsageError, match=f"the figure is built up in steps 1 to 4, got {step}"):
        draw(lecture(), step=step)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_networks_give_equal_files(kind, tmp_path):
    for name in ("one", "other"):
        save_picture(draw(lecture()), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    assert (tmp_path / f"one.{kind}").stat().st_size > 5000
