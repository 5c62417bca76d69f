"""Networks of timm: what they give is what timm gives, and they are encoders like any other."""

import huggingface_hub
import pytest
import safetensors.torch
import torch
from command_line import answer, run
from PIL import Image
from test_encoders_adapters import check_field, tiles_that_differ
from tiny_adapted import needs_timm, randomise

from fullyconv.class_table import ClassTable
from fullyconv.encoder import Encoder
from fullyconv.encoders import bare_network, build_network, fetch_pretrained
from fullyconv.encoders.adapters import import_library
from fullyconv.errors import DownloadError, UsageError, WeightsError
from fullyconv.model import FCN
from fullyconv.model_file import load_model, read_description, save_model
from fullyconv.synthetic import write_dataset

pytestmark = needs_timm

CONVOLUTIONAL = ["test_resnet", "test_convnext", "tf_mobilenetv3_small_minimal_100", "regnetx_002"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def published(tmp_path):
    """A file of a whole network of timm, and that network."""
    whole = randomise(import_library("timm", "timm").create_model("test_resnet").eval().requires_grad_(False))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(whole.state_dict(), path)
    return path, whole


def features(network, images):
    with torch.no_grad():
        return network(images, [tap.stride for tap in network.taps])


def test_what_it_declares_is_what_timm_says():
    network = build_network("timm:resnet18", "none")
    assert [(tap.name, tap.stride, tap.channels, tap.receptive_field) for tap in network.taps] == [
        ("act1", 2, 64, 7),
        ("layer1", 4, 64, 43),
        ("layer2", 8, 128, 99),
        ("layer3", 16, 256, 211),
        ("layer4", 32, 512, 435),
    ]
    own = build_network("resnet18", "none").taps
    assert [(tap.receptive_field, tap.field_start) for tap in network.taps[1:]] == [
        (tap.receptive_field, tap.field_start) for tap in own
    ]
    assert network.input_convention.mean == (123.675, 116.28, 103.53)
    assert network.weights_licence == "Apache-2.0"
    assert not network.sees_all


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_receptive_fields_are_exactly_what_cells_see(name):
    check_field(build_network(f"timm:{name}", "none"))


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "test_efficientnet", "swin_tiny_patch4_window7_224", "resnet10t"]
)
def test_attention_squeezing_and_what_is_not_known_see_all(name):
    network = build_network(f"timm:{name}", "none")
    assert network.sees_all is (name != "resnet10t")
    maps = features(network, torch.randn(1, 3, 96, 64))
    expected = [(tap.channels, 96 // tap.stride, 64 // tap.stride) for tap in network.taps]
    assert [tuple(values.shape[1:]) for values in maps] == expected


@pytest.mark.parametrize(
    "name",
    ["test_resnet", pytest.param("convnext_atto", marks=pytest.mark.slow), "tf_mobilenetv3_small_minimal_100"],
)
def test_tiles_have_the_bits_of_the_whole_image(name):
    assert tiles_that_differ(f"timm:{name}") == (0, 0)


def test_features_are_those_of_timm(published):
    path, whole = published
    network = build_network("timm:test_resnet", str(path))
    images = torch.randn(1, 3, 64, 96)
    expected = whole.forward_intermediates(images, intermediates_only=True)
    for maps, wanted in zip(features(network, images), expected, strict=True):
        torch.testing.assert_close(maps, wanted)
    for maps, wanted in zip(features(network.folded(), images), expected, strict=True):
        torch.testing.assert_close(maps, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["test_convnext", "test_vit", "test_efficientnet", "test_vit2", "resnet10t", "xception41", "regnety_002"],
)
def test_every_weight_of_an_encoder_is_one_of_the_whole_network(name):
    timm = import_library("timm", "timm")
    network = build_network(f"timm:{name}", "none")
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in timm.create_model(name).state_dict().items()}
    state = network.state_dict()
    for own, theirs in network.published_keys().items():
        assert shapes[theirs] == state[own].shape


def test_weights_of_another_network_or_damaged_ones_are_refused(published, tmp_path):
    path, whole = published
    with pytest.raises(WeightsError, match=r"holds the weights of another network: missing: stem\.0\.weight"):
        build_network("timm:test_convnext", str(path))
    state = whole.state_dict()
    state["layer1.0.conv1.weight"][0] = torch.nan
    safetensors.torch.save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"no finite numbers in layer1\.0\.conv1\.weight"):
        build_network("timm:test_resnet", str(tmp_path / "broken.safetensors"))


def test_pretrained_weights_come_from_the_hub(published, monkeypatch):
    asked = []

    def download(repository, file, local_files_only):
        asked.append((repository, file, local_files_only))
        if local_files_only and len(asked) == 1:
            raise FileNotFoundError("not there")
        return published[0]

    monkeypatch.setenv("FULLYCONV_OFFLINE", "")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetch_pretrained("timm:test_resnet")
    network = build_network("timm:test_resnet.r160_in1k")
    name = "timm/test_resnet.r160_in1k"
    assert asked == [(name, "model.safetensors", local) for local in (True, False, True)]
    assert network.weights_source.startswith(f"hub {name} sha256:")
    assert torch.equal(network.network.conv1[0].weight, published[1].conv1[0].weight)


def test_without_a_network_one_line_says_so(monkeypatch):
    def fail(*_, local_files_only, **__):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = (
        "the weights of timm/test_resnet.r160_in1k are not on this machine, and offline nothing is downloaded"
    )
    with pytest.raises(WeightsError, match=message):
        fetch_pretrained("timm:test_resnet")
    monkeypatch.setenv("FULLYCONV_OFFLINE", "0")
    with pytest.raises(WeightsError, match=message):
        fetch_pretrained("timm:test_resnet", offline=True)
    with pytest.raises(DownloadError, match=r"cannot be downloaded: no route \(use --encoder-weights FILE"):
        build_network("timm:test_resnet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"timm has no network 'resnet19' \(such as resnet18"),
        ("hf-hub:timm/resnet18", "timm has no network 'hf-hub:timm/resnet18'"),
        ("resnet18.mine", r"timm has no weights 'resnet18.mine' \(it has resnet18\."),
        ("inception_v4", r"gives maps of 221 x 445, .* they lie on no grid of strides \(choose a network whose"),
        ("maxvit_pico_rw_256", "does not take images of every size: .*height"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_in_one_line(name, message):
    with pytest.raises(UsageError, match=message):
        build_network(f"timm:{name}", "none")


def test_a_network_without_published_weights_says_what_to_do():
    with pytest.raises(WeightsError, match=r"no pretrained weights are published for timm:resnet200 \(use --enc"):
        build_network("timm:resnet200")


def test_only_its_coarsest_stride_can_be_the_last():
    network = build_network("timm:test_resnet", "none")
    with pytest.raises(
        UsageError, match=r"stride 32 has to be among those that are read, got 4, 8 \(choose the dec"
    ):
        Encoder(network, (4, 8))


def test_other_channels_of_the_images(tmp_path):
    network = build_network("timm:test_resnet", "none", 5)
    assert [maps.shape[-1] for maps in features(network, torch.randn(1, 5, 32, 64))] == [32, 16, 8, 4, 2]
    again = bare_network(network.name, network.architecture, 5)
    again.load_state_dict(network.state_dict())
    assert again.input_convention == network.input_convention


def test_a_model_file_needs_neither_weights_nor_network(published, tmp_path):
    table = ClassTable.from_values(range(3))
    model = FCN.build(table, encoder="timm:test_resnet", encoder_weights=str(published[0])).eval()
    save_model(model, tmp_path / "first.safetensors")
    published[0].unlink()
    encoder = read_description(tmp_path / "first.safetensors")["encoder"]
    assert (encoder["name"], encoder["architecture"]["model"]) == ("timm:test_resnet", "test_resnet")
    again = load_model(tmp_path / "first.safetensors")
    save_model(again, tmp_path / "again.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    images = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.slow  # every day, transformers' networks go this way
def test_from_training_to_a_mask_on_the_command_line(tmp_path, monkeypatch):
    write_dataset(tmp_path / "data", train=3, val=1, test=1, size=(64, 80))
    words = ["--encoder", "timm:test_resnet", "--encoder-weights", "none", "--epochs", 1, "--steps", 2]
    out = tmp_path / "run"
    assert run(monkeypatch, "train", tmp_path / "data", "-o", out, *words) == 0
    model = out / "best.safetensors"
    assert "timm:test_resnet, weights: random (Apache-2.0)" in answer(monkeypatch, "info", model).stdout
    assert "layer4" in answer(monkeypatch, "explain", model).stdout
    assert "timm:test_resnet + fcn" in answer(monkeypatch, "explain", "timm:test_resnet+fcn").stdout
    assert run(monkeypatch, "evaluate", model, tmp_path / "data") == 0
    assert run(monkeypatch, "predict", model, tmp_path / "data/images/test", "-o", tmp_path / "masks") == 0
    offline = answer(
        monkeypatch, "train", tmp_path / "data", "-o", tmp_path / "b", "--encoder", "timm:test_resnet"
    )
    assert offline.returncode == 2
    assert offline.stderr.splitlines()[-1].startswith("error: the weights of timm/test_resnet.r160_in1k are not")
    with Image.open(tmp_path / "masks" / "0000.png") as mask:
        assert mask.size == (80, 64)
