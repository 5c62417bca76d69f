"""What networks of other libraries have in common as encoders."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_adapted import hf_folder, needs_hf, needs_timm, randomise
from tiny_data import tiny_dataset

from fullyconv.class_table import ClassTable
from fullyconv.encoder import Encoder
from fullyconv.encoders import build_network, is_adapted
from fullyconv.encoders.adapters import SameConv2d, find_taps
from fullyconv.errors import UsageError
from fullyconv.features import FeatureReader
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.tiles import cut


@torch.no_grad()
def check_field(network):
    """Hold each tap to its field: no pixel beyond it changes a cell in the middle, its outermost ones do."""
    randomise(network)
    network = network.double()
    strides = [tap.stride for tap in network.taps]
    for place, tap in enumerate(network.taps):
        height = -(-(2 * tap.receptive_field + 4 * strides[-1]) // strides[-1]) * strides[-1]
        cell = height // tap.stride // 2
        first = cell * tap.stride + tap.field_start
        last = first + tap.receptive_field - 1
        images = torch.randn(1, 3, height, strides[-1], dtype=torch.float64).repeat(4, 1, 1, 1)
        for image, row in zip(images, (first - 1, first, last, last + 1), strict=True):
            image[:, row] = torch.nan
        touched = network(images, strides)[place][:, :, cell].isnan().flatten(1).any(1).tolist()
        assert touched == [False, True, True, False]


def tiles_that_differ(name, precision="float32"):
    """How many pixels, and logits, of an image cut into tiles are not those of the whole."""
    torch.manual_seed(0)
    model = FCN.build(ClassTable.from_values(range(4)), encoder=name, encoder_weights="none", hidden=8)
    randomise(model.encoder.network)
    randomise(model.decoder)
    predictor = Predictor(model, precision=precision)
    halo, grid = predictor.halo, predictor.tile_grid
    size = (6 * grid + halo.before + halo.after + 11, 2 * grid + 5)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tiles = cut(size, (grid, 2 * grid + 5), halo, grid)
    assert any(tile.window.top > 0 and tile.window.bottom < size[0] for tile in tiles)
    whole, logits = predictor.predict(image), predictor.logits(image)
    pixels = cells = 0
    for tile in tiles:
        window = image[tile.window.slices]
        pixels += int((predictor.predict_tile(window, tile) != whole[tile.area.slices]).sum())
        inner, stride = tile.area.within(tile.window), predictor.output_stride
        part = predictor.logits(window)[..., inner.top // stride : -(-inner.bottom // stride), :]
        rows = slice(tile.area.top // stride, -(-tile.area.bottom // stride))
        cells += int((part[..., : logits.shape[-1]] != logits[..., rows, :]).sum())
    return pixels, cells


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet18", r'timm is not installed \(install it with: pip install "fullyconv\[timm\]"\)'),
        (
            "hf:facebook/dinov2",
            r'transformers is not installed \(install it with: pip install "fullyconv\[hf\]"\)',
        ),
    ],
)
@pytest.mark.parametrize("weights", ["pretrained", "none"])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, name, message, weights):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("timm", "transformers") else there(name)
    )
    with pytest.raises(UsageError, match=message):
        build_network(name, weights)


@pytest.mark.slow
@needs_timm
def test_torchvision_is_helped_only_where_it_does_not_load_by_itself():
    code = (
        "import importlib, torch\n"
        "from fullyconv.encoders import adapters\n"
        "try:\n    import torchvision\n    loads = True\n"
        "except RuntimeError:\n    loads = False\n"
        "adapters.import_library('timm', 'timm')\n"
        "assert bool(adapters._declared) is not loads, loads\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_other_libraries_are_known():
    assert [is_adapted(name) for name in ("timm:resnet18", "hf:x", "cae:x", "resnet18")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(112, 224), (55, 111)], "gives maps of 112 x 224, 55 x 111 cells for 448 x 896 px: they lie on no grid"),
        ([(56, 112), (112, 224)], "they lie on no grid of strides"),
        ([(448 // 4, 896 // 4), (448 // 14, 896 // 14)], "they lie on no grid of strides"),
    ],
)
def test_maps_that_lie_on_no_grid_are_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        find_taps("timm:x", ["a", "b"], lambda images: [images.new_zeros(1, 3, *size) for size in sizes])


@needs_hf
@pytest.mark.parametrize("kind", ["dinov2", "convnext", "resnet"])
def test_fixed_means_fixed(tmp_path, kind):
    encoder = Encoder(build_network(f"hf:{hf_folder(tmp_path, kind)[0]}"))
    images = torch.randint(0, 256, (2, 3, 70, 84), dtype=torch.uint8)
    before, first = encoder.digest(), encoder(images)
    encoder.train()
    encoder.network.train()
    assert not any(module.training for module in encoder.modules())
    for maps, others in zip(first, encoder(images), strict=True):
        assert torch.equal(maps, others)
    assert not any(maps.requires_grad for maps in first)
    assert encoder.digest() == before


@needs_timm
def test_digests_differ_with_name_weights_and_form():
    encoders = [
        Encoder(build_network(f"timm:{name}", "none")) for name in ("test_resnet", "test_resnet.r160_in1k")
    ]
    encoders.append(Encoder(build_network("timm:test_resnet", "none")))
    randomise(encoders[-1].network)
    assert len({encoder.digest() for encoder in encoders}) == 3
    assert Encoder(build_network("timm:test_resnet", "none")).digest() == encoders[0].digest()


@needs_timm
def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(1)
    build_network("timm:test_resnet", "none")
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


@needs_timm
def test_another_version_of_the_library_computes_its_features_anew(tmp_path, monkeypatch):
    dataset = tiny_dataset(tmp_path, [(32, 32)])
    network = build_network("timm:test_resnet", "none")
    encoder = Encoder(network)
    keys = []
    for library in (network.library, "timm 0.0"):
        network.library = library
        keys.append(FeatureReader(encoder, dataset)._recipe["library"])
    assert keys == [f"timm {importlib.metadata.version('timm')}", "timm 0.0"]


@needs_timm
def test_convolutions_of_the_copy_that_computes_are_those_of_the_package():
    working = build_network("timm:tf_mobilenetv3_small_minimal_100", "none").folded()
    kinds = {type(module) for module in working.modules() if isinstance(module, torch.nn.Conv2d)}
    assert {kind.__module__.split(".")[0] for kind in kinds} == {"fullyconv"}
    assert SameConv2d in kinds
