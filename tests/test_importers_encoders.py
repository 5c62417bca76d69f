"""Encoders of others as weights files: found by their tensors, the same features as where they came from."""

import hashlib

import pytest
import torch
from command_line import answer
from oracles import import_torchvision, random_reference
from tiny_networks import deeper_slow
from torch.nn import functional

from fullyconv.encoders import ENCODER_NAMES, build_network
from fullyconv.encoders.vgg import VGG16
from fullyconv.errors import WeightsError
from fullyconv.importers import import_encoder


def features(name, path, images):
    network = build_network(name, str(path)).eval()
    with torch.no_grad():
        return network(images, [tap.stride for tap in network.taps])


@pytest.mark.parametrize(
    "name", deeper_slow([name for name in ENCODER_NAMES if not name.endswith("_d8") and "101" not in name])
)
def test_weights_in_the_layout_of_their_publisher_are_found(name, tmp_path):
    network = build_network(name, "none")
    published = network.published_keys()
    state = {published[key]: tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    encoder, tensors = import_encoder(tmp_path / "weights.pth")
    assert encoder == name
    assert all(torch.equal(tensors[key], state[key]) for key in state)


@pytest.mark.parametrize("number", [0, 1])
def test_encoders_of_timm_are_found_by_name_and_give_their_features(number, tmp_path, monkeypatch):
    import_torchvision()
    timm = pytest.importorskip("timm")
    kind = f"tf_efficientnet_lite{number}"
    reference = random_reference(lambda: timm.create_model(kind, pretrained=False))
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    answer(monkeypatch, "import", tmp_path / "weights.pth", "-o", tmp_path / "encoder.safetensors")
    images = torch.randn(1, 3, 64, 64)
    ours = features(f"efficientnet_lite{number}", tmp_path / "encoder.safetensors", images)
    with torch.no_grad():
        deepest = reference.blocks(reference.bn1(reference.conv_stem(images)))
    assert torch.allclose(ours[-1], deepest, rtol=1e-4, atol=1e-4 * float(deepest.abs().max()))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet18", "resnet18"),
        ("tu-tf_efficientnet_lite0", "efficientnet_lite0"),
        pytest.param("vgg16", "vgg16", marks=pytest.mark.slow),
    ],
)
def test_the_encoder_of_a_model_of_segmentation_models_pytorch(theirs, ours, tmp_path, monkeypatch):
    import_torchvision()
    smp = pytest.importorskip("segmentation_models_pytorch")
    unet = random_reference(lambda: smp.Unet(theirs, encoder_weights=None, classes=3))
    torch.save(unet.state_dict(), tmp_path / "unet.pth")
    lines = answer(monkeypatch, "import", tmp_path / "unet.pth", "-o", tmp_path / "encoder.safetensors").stdout
    assert f"the encoder {ours}, without classes" in lines
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = unet.encoder(images)
    if theirs == "vgg16":  # they read in front of each pooling, we behind it
        expected = [functional.max_pool2d(maps, 2) for maps in expected]
    for maps in features(ours, tmp_path / "encoder.safetensors", images):
        (same,) = (other for other in expected if other.shape == maps.shape)
        assert torch.allclose(maps, same, rtol=1e-4, atol=1e-4 * float(same.abs().max()))


def test_a_classifier_keeps_the_layers_that_fcns_start_from(tmp_path):
    network = build_network("vgg16", "none")
    layers = {"classifier.0.weight": torch.ones(2, 3), "classifier.6.bias": torch.ones(4)}
    torch.save({**network.state_dict(), **layers}, tmp_path / "vgg16.pth")
    encoder, tensors = import_encoder(tmp_path / "vgg16.pth")
    assert encoder == "vgg16"
    assert set(layers) <= set(tensors)


def test_other_tensors_are_no_encoder(tmp_path, monkeypatch):
    torch.save({"encoder.conv1.weight": torch.ones(3)}, tmp_path / "other.pth")
    assert import_encoder(tmp_path / "other.pth") is None
    said = answer(monkeypatch, "import", tmp_path / "other.pth")
    assert said.returncode == 2
    assert "no weights of a whole network that is known here" in said.stderr


def test_a_file_that_is_named_after_its_digest_can_be_read_when_it_is_imported(tmp_path, monkeypatch):
    torch.save(build_network("resnet18", "none").state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "w.pth").rename(tmp_path / f"resnet18-{digest}.pth")
    monkeypatch.chdir(tmp_path)
    assert answer(monkeypatch, "import", f"resnet18-{digest}.pth").returncode == 0
    build_network("resnet18", "resnet18.safetensors")
    again = answer(monkeypatch, "import", f"resnet18-{digest}.pth")
    assert again.returncode == 2
    assert "resnet18.safetensors" in again.stderr


def test_weights_that_want_other_images_are_refused(tmp_path, monkeypatch):
    torch.save(build_network("vgg16", "none").state_dict(), tmp_path / "vgg16.pth")
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(VGG16, "misfits", ((digest, "it wants BGR"),))
    with pytest.raises(WeightsError, match="it wants BGR"):
        import_encoder(tmp_path / "vgg16.pth")


def test_no_tensors_are_no_encoder(tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    assert import_encoder(tmp_path / "empty.pth") is None
