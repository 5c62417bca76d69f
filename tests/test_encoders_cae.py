"""The autoencoder: sizes as TensorFlow counts them, any image back at its own size, an encoder like any other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders import ComputedWidths, seen_rows
from torch import nn
from torch.nn import functional

from fullyconv.class_table import ClassTable
from fullyconv.encoder import Encoder, to_grey
from fullyconv.encoders import bare_network, build_network, open_cae
from fullyconv.encoders.cae import (
    CAE,
    PRESETS,
    Architecture,
    CAENetwork,
    TransposeSame,
    conv_size,
    load_cae,
    save_cae,
    transposed_size,
)
from fullyconv.encoders.efficientnet_lite import conv_same
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.features import FeatureReader
from fullyconv.image_form import ImageForm
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.tensor_file import read_tensor_file, write_tensor_file

SMALL = Architecture(3, (4, 5, 6, 7, 8), kernel=4)
FORMS = {
    "photo": PRESETS["photo"],
    "digits": PRESETS["digits"],
    "pool": Architecture(3, (4, 5, 6), kernel=3, down="pool"),
    "odd": Architecture(2, (4, 5), kernel=5),
    "even": Architecture(4, (3, 3), kernel=2),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def cae_of(architecture, seed=0):
    cae = CAE(architecture)
    cae.initialise(seed)
    return cae.requires_grad_(False)


@pytest.fixture
def path(tmp_path):
    save_cae(cae_of(SMALL), tmp_path / "cae.safetensors")
    return tmp_path / "cae.safetensors"


def test_sizes_are_those_of_the_lectures_examples():
    assert conv_size(4, 3, padding="VALID") == 2
    assert conv_size(5, 3, padding="SAME") == 5
    assert [conv_size(28, 3, 2), conv_size(14, 3, 2), conv_size(7, 7, padding="VALID")] == [14, 7, 1]
    assert [transposed_size(1, 7, padding="VALID"), transposed_size(7, 3, 2), transposed_size(14, 3, 2)] == [
        7,
        14,
        28,
    ]


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sizes_are_those_of_torchs_layers(kernel, stride):
    conv = nn.Conv1d(1, 1, kernel, stride)
    wide = nn.Conv2d(1, 1, (kernel, 1), (stride, 1))
    transposed = nn.ConvTranspose1d(1, 1, kernel, stride)
    for size in range(1, 40):
        assert conv_same(torch.zeros(1, 1, size, 1), wide).shape[2] == conv_size(size, kernel, stride, "SAME")
        # torch gives (n - 1) s + k; where the kernel is the shorter one, TensorFlow adds the s - k zeros after it.
        whole = transposed(torch.zeros(1, 1, size)).shape[2] + max(stride - kernel, 0)
        assert whole == transposed_size(size, kernel, stride, "VALID")
        if kernel <= size:
            assert conv(torch.zeros(1, 1, size)).shape[2] == conv_size(size, kernel, stride, "VALID")
        assert transposed_size(conv_size(size, kernel, stride), kernel, stride) in range(size, size + stride)


def test_a_kernel_that_has_no_place_is_refused():
    with pytest.raises(UsageError, match=r"a kernel of 7 cells has no VALID place on 2 cells \(use SAME\)"):
        conv_size(2, 7, padding="VALID")


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 7), (8, 3)])
def test_the_way_up_is_the_adjoint_of_the_way_down(kernel, size):
    """<conv(x), y> = <x, transposed(y)> for equal weights: each cell goes back to where it was read."""
    conv = nn.Conv2d(2, 3, kernel, 2, bias=False)
    layer = TransposeSame(3, 2, kernel)
    layer.weight.data.copy_(conv.weight)
    layer.bias.data.zero_()
    x = torch.randn(1, 2, *size)
    down = conv_same(x, conv)
    y = torch.randn_like(down)
    up = layer(y, size)
    assert up.shape == x.shape
    torch.testing.assert_close((down * y).sum(), (x * up).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_of_any_size_comes_back_at_its_own_size(form):
    cae = cae_of(FORMS[form])
    for size in [(1, 1), (1, 50), (2, 3), (7, 8), (28, 28), (33, 31), (64, 32)]:
        images = torch.rand(2, FORMS[form].channels, *size)
        assert cae(images).shape == images.shape


@pytest.mark.parametrize("form", FORMS)
def test_the_sizes_that_are_told_are_those_of_the_maps(form):
    cae = cae_of(FORMS[form])
    images = torch.rand(1, FORMS[form].channels, 37, 18)
    maps = cae.down(images, [tap.stride for tap in cae.down.taps])
    assert cae.sizes((37, 18))[1:] == [tuple(values.shape[-2:]) for values in maps]


def test_the_whole_is_what_its_layers_compute_one_after_the_other():
    cae = cae_of(Architecture(1, (3, 2), kernel=4))
    images = torch.rand(1, 1, 8, 12)
    first = functional.conv2d(2 * images - 1, cae.down.stages[0].weight, stride=2, padding=1).relu()
    code = functional.conv2d(first, cae.down.stages[1].weight, stride=2, padding=1)
    back = functional.conv_transpose2d(code, cae.up[1].weight, stride=2, padding=1).relu()
    pixels = functional.conv_transpose2d(back, cae.up[0].weight, stride=2, padding=1)
    torch.testing.assert_close(cae(images), (pixels + 1) / 2)


def test_presets_have_the_strides_that_the_decoders_read():
    assert [tap.stride for tap in CAENetwork(PRESETS["photo"]).taps] == [2, 4, 8, 16, 32]
    assert [tap.stride for tap in CAENetwork(PRESETS["digits"]).taps] == [2, 4]
    assert (PRESETS["photo"].channels, PRESETS["digits"].channels) == (3, 1)


@pytest.mark.parametrize("form", ["photo", "digits", "pool"])
def test_declared_strides_channels_and_order_are_those_of_the_features(form):
    network = cae_of(FORMS[form]).down
    grid = network.taps[-1].stride
    strides = [tap.stride for tap in network.taps]
    features = network(torch.randn(2, FORMS[form].channels, 2 * grid, 3 * grid), strides)
    expected = [(2, tap.channels, 2 * grid // tap.stride, 3 * grid // tap.stride) for tap in network.taps]
    assert [tuple(maps.shape) for maps in features] == expected


def test_nothing_beyond_the_deepest_asked_stride_is_computed():
    network, images = cae_of(SMALL).down, torch.randn(1, 3, 64, 64)
    with ComputedWidths() as computed:
        assert len(network(images, (4, 8))) == 2
    assert min(computed.widths) == 64 // 8


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("down", ["stride", "pool"])
def test_receptive_fields_are_exactly_what_cells_see(kernel, down):
    network = cae_of(Architecture(3, (1, 1, 1), kernel, down)).down.double()
    for parameter in network.parameters():
        parameter.fill_(1) if parameter.ndim == 4 else parameter.zero_()
    for place, tap in enumerate(network.taps):
        first, last = seen_rows(network, place, height=128)
        assert first == 64 + tap.field_start
        assert last - first + 1 == tap.receptive_field


def test_its_encoder_is_an_encoder(path):
    encoder = Encoder(build_network(f"cae:{path}"), (4, 8, 16, 32))
    images = torch.randint(0, 256, (1, 3, 45, 70), dtype=torch.uint8)
    features = encoder(images)
    assert [tuple(maps.shape[1:]) for maps in features] == [(5, 16, 24), (6, 8, 12), (7, 4, 6), (8, 2, 3)]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    padded = functional.pad(images.float() / 127.5 - 1, (0, 26, 0, 19))
    expected = load_cae(path).down(padded, (4, 8, 16, 32))
    for maps, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(maps, wanted)


def test_a_grey_autoencoder_reads_colour_images_as_grey():
    network = cae_of(PRESETS["digits"]).down
    grey = torch.randint(0, 256, (1, 1, 8, 8)).float()
    code = Encoder(network)(grey.expand(1, 3, 8, 8))[-1]
    torch.testing.assert_close(code, network(grey / 127.5 - 1, (4,))[0])


def test_grey_is_the_luma_of_pillow_and_equal_channels_stay_what_they_are():
    from PIL import Image

    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L")
    difference = to_grey(pixels.float())[0, 0] - torch.from_numpy(np.array(picture)).float()
    assert difference.abs().max() <= 1
    value = torch.rand(1, 1, 4, 4) * 255
    assert torch.equal(to_grey(value.expand(1, 3, 4, 4)), value)


def test_other_weights_or_another_form_are_another_encoder():
    architectures = [SMALL, Architecture(3, (4, 5, 6, 7, 8), kernel=3)]
    encoders = [Encoder(cae_of(SMALL, seed=1).down), *(Encoder(cae_of(a).down) for a in architectures)]
    digests = {encoder.digest() for encoder in encoders}
    assert len(digests) == 3
    # The digest of the encoder is in the key of every cached feature.
    recipes = [FeatureReader(encoder, None)._recipe["encoder"] for encoder in encoders]
    assert set(recipes) == digests


def test_pooling_and_strides_are_told_apart_where_the_tensors_are_alike():
    pool = Architecture(3, (4,), kernel=3, down="pool")
    networks = [cae_of(pool).down, cae_of(Architecture(3, (4,), kernel=3)).down]
    assert all(map(torch.equal, *(network.state_dict().values() for network in networks)))
    assert len({Encoder(network).digest() for network in networks}) == 2


def test_a_file_gives_back_every_bit_and_equal_ones_are_equal_files(tmp_path, path):
    save_cae(cae_of(SMALL), tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    loaded = load_cae(path)
    assert loaded.architecture == SMALL
    for name, tensor in cae_of(SMALL).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.down.weights_source.startswith("cae sha256:")
    with pytest.raises(UsageError, match="exists already"):
        save_cae(loaded, path)


def forge(path, drop=(), tensors=(), **changes):
    document, found = read_tensor_file(path, "fullyconv_cae", 1)
    del document["digest"]
    found = {name: tensor for name, tensor in found.items() if name not in drop} | dict(tensors)
    write_tensor_file(path, "fullyconv_cae", 1, {**document, **changes}, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ["up.0.bias"]}, "expected up.0.bias to be .*, got None"),
        ({"tensors": {"extra": torch.ones(1)}}, "expected extra to be None, got"),
        ({"tensors": {"up.0.bias": torch.ones(4)}}, r"expected up.0.bias to be \(\(3,\), torch.float32\), got"),
        ({"tensors": {"up.0.bias": torch.full((3,), math.nan)}}, "up.0.bias has values that are not finite"),
        ({"architecture": {**SMALL.to_json(), "kernel": 9}}, "an autoencoder has a kernel in 2..5, got 9"),
        ({"architecture": {**SMALL.to_json(), "widths": [10**9]}}, "has a width in 1..1024, got 1000000000"),
        ({"architecture": {"channels": 3}}, "an autoencoder is described by channels, widths, kernel, down"),
        ({"architecture": []}, "architecture and training have to be objects"),
        ({"more": 1}, "is no autoencoder: it describes"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path, changes, message):
    forge(path, **changes)
    with pytest.raises(ModelFileError, match=message):
        load_cae(path)


def test_a_damaged_file_and_one_of_another_kind_are_refused(path, tmp_path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="is damaged"):
        load_cae(path)
    write_tensor_file(tmp_path / "other.safetensors", "fullyconv", 1, {}, {"a": torch.ones(1)})
    with pytest.raises(ModelFileError, match='expected a safetensors file with the metadata "fullyconv_cae"'):
        load_cae(tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        build_network(f"cae:{tmp_path / 'nothing.safetensors'}")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    cae = cae_of(SMALL)
    cae.up[2].bias[0] = math.inf
    with pytest.raises(ModelFileError, match=r"the autoencoder: up\.2\.bias has values that are not finite"):
        save_cae(cae, tmp_path / "cae.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_random_start_has_the_same_form_and_other_weights(path):
    trained, random = open_cae(f"cae:{path}"), open_cae(f"cae:{path}", "none")
    assert random.architecture == trained.architecture
    assert random.down.weights_source == "random"
    forge(path, tensors={name: tensor + 1 for name, tensor in trained.state_dict().items()})
    for name, tensor in open_cae(f"cae:{path}", "none").state_dict().items():
        assert torch.equal(tensor, random.state_dict()[name])


def test_other_weights_for_an_autoencoder_are_refused(path, tmp_path):
    torch.save({"features.0.bias": torch.zeros(3)}, tmp_path / "vgg.pth")
    with pytest.raises(UsageError, match=r"the weights of an autoencoder are in its own file, got .*vgg\.pth"):
        open_cae(f"cae:{path}", str(tmp_path / "vgg.pth"))


def test_an_autoencoder_whose_encoder_was_trained_can_be_gone_on_from(path, tmp_path):
    model = FCN.build(ClassTable.from_values(range(3)), encoder=f"cae:{path}", decoder="cae")
    model.encoder.network.stages[0].weight.data.fill_(0.5)
    save_model(model, tmp_path / "model.safetensors")
    again = build_network(f"cae:{path}", str(tmp_path / "model.safetensors"))
    assert (again.stages[0].weight == 0.5).all()


def test_an_autoencoder_of_other_channels_is_no_encoder_of_rgb(tmp_path):
    save_cae(cae_of(FORMS["even"]), tmp_path / "cae.safetensors")
    network = build_network(f"cae:{tmp_path / 'cae.safetensors'}")
    with pytest.raises(UsageError, match=r"encoder cae reads images of 4 channels, got 3 .use --channels 4"):
        Encoder(network)
    assert Encoder(network, image_form=ImageForm(4))(torch.zeros(1, 4, 9, 9))[0].shape[0] == 1


@pytest.mark.parametrize("values", [("cae", None), ("vgg16", SMALL.to_json())])
def test_an_architecture_belongs_to_an_autoencoder_and_to_nothing_else(values):
    with pytest.raises(UsageError, match="no encoder"):
        bare_network(*values)
    assert json.dumps(bare_network("cae", SMALL.to_json()).architecture) == json.dumps(SMALL.to_json())


def test_random_layers_keep_activations_at_their_size():
    layer = TransposeSame(64, 64, 4).requires_grad_(False)
    layer.initialise()
    maps = layer(torch.randn(4, 64, 16, 16).relu())
    assert 0.8 < maps.relu().square().mean() / torch.randn(10**5).relu().square().mean() < 1.25
    assert not layer.bias.any()


def test_the_seed_decides_the_start_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    first = cae_of(SMALL).state_dict()
    cae = CAE(SMALL)
    state = torch.get_rng_state()
    cae.initialise(0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, first[name]) for name, tensor in cae.state_dict().items())
    assert not torch.equal(cae_of(SMALL, seed=1).up[0].weight, first["up.0.weight"])


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_with_all_components_the_start_gives_every_image_back(kernel):
    """A stage that keeps as many components as its blocks have values loses nothing, signs and means included."""
    cae = cae_of(Architecture(2, (16, 32), kernel))
    cae.start_from_components(torch.rand(8, 2, 16, 16) * 0.5)
    images = torch.rand(2, 2, 12, 20)
    torch.testing.assert_close(cae(images), images, atol=1e-5, rtol=1e-4)


def test_the_start_is_the_principal_component_analysis_of_blocks():
    """One stage of k channels: the mean squared error is what the smaller eigenvalues of the blocks leave."""
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(4, 1, 32, 32, generator=draw).cumsum(3).clamp(max=9) / 9
    blocks = (images - images.mean()).view(4, 16, 2, 16, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4).double()
    values = torch.linalg.eigvalsh(blocks.T @ blocks / len(blocks))
    for kept in (2, 3):
        cae = cae_of(Architecture(1, (kept,), 4))
        cae.start_from_components(images)
        error = (cae(images) - images).square().mean()
        torch.testing.assert_close(error, values[: 4 - kept].sum().float() / 4, rtol=1e-4, atol=1e-7)


def test_channels_beyond_the_components_wait_without_harm():
    cae = cae_of(Architecture(1, (15, 4), 3))
    cae.start_from_components(torch.rand(8, 1, 8, 8))
    assert cae.up[0].weight[:8].any(1).any()
    assert not cae.up[0].weight[8:].any()
    assert cae.down.stages[0].weight[8:].flatten(1).any(1).all()


@pytest.mark.parametrize("architecture", [Architecture(3, (4,), down="pool"), Architecture(3, (1, 4))])
def test_what_cannot_start_from_components_says_so(architecture):
    with pytest.raises(UsageError, match="cannot start from components"):
        cae_of(architecture).start_from_components(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_documented_taps_and_weights_are_those_of_the_presets(preset):
    network = CAENetwork(PRESETS[preset])
    page = (Path(__file__).parents[1] / "docs" / "concepts" / "encoders.md").read_text(encoding="utf-8")
    for tap in network.taps:
        assert f"`{preset}` | `{tap.name}` | {tap.stride} | {tap.channels} | {tap.receptive_field} |\n" in page
    if preset == "photo":
        assert f"{sum(parameter.numel() for parameter in network.parameters()):,} weights in the preset" in page
