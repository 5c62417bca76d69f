"""Published weights -> model files: the logits of those who published them, and what is refused."""

import numpy as np
import pytest
import torch
from command_line import run
from oracles import import_torchvision, random_reference
from PIL import Image

from fullyconv.errors import UsageError, WeightsError
from fullyconv.importers import import_model
from fullyconv.model_file import load_model, read_description


def torchvisions(depth, classes=21, auxiliary=True):
    """torchvision's FCN-ResNet with random weights that show."""
    torch.manual_seed(0)
    build = getattr(import_torchvision().models.segmentation, f"fcn_resnet{depth}")
    options = {"weights": None, "weights_backbone": None, "aux_loss": auxiliary, "num_classes": classes}
    return random_reference(lambda: build(**options))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision publishes it, and its network."""
    reference = torchvisions(50)
    path = tmp_path_factory.mktemp("published") / "fcn_resnet50_coco.pth"
    torch.save(reference.state_dict(), path)
    return path, reference


@torch.no_grad()
def parity(model, reference, size):
    """The largest difference of two logits, as a share of the largest logit."""
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    normalise = import_torchvision().transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = reference(normalise(images / 255))["out"]
    return float((model(images) - expected).abs().max() / expected.abs().max())


def test_the_logits_are_torchvisions(published):
    path, reference = published
    model = import_model(path)
    for size in [(40, 72), (104, 56)]:
        assert parity(model, reference, size) < 1e-5
    assert model.class_table.names[15] == "person"
    assert model.encoder.network.name == "resnet50_d8"
    assert model.decoder.aux_classifier is not None
    with pytest.raises(UsageError, match=r"only an FCN-8s is trained at once, .* is an FCN-ResNet"):
        import_model(path, at_once=False)


@pytest.mark.slow
def test_the_logits_of_101_layers_are_torchvisions(tmp_path):
    reference = torchvisions(101)
    torch.save(reference.state_dict(), tmp_path / "fcn_resnet101_coco.pth")
    assert parity(import_model(tmp_path / "fcn_resnet101_coco.pth"), reference, (48, 64)) < 1e-5


def test_other_classes_without_an_auxiliary_head(tmp_path):
    reference = torchvisions(50, classes=4, auxiliary=False)
    torch.save(reference.state_dict(), tmp_path / "mine.pth")
    model = import_model(tmp_path / "mine.pth")
    assert parity(model, reference, (32, 40)) < 1e-5
    assert model.class_table.names == ("class 0", "class 1", "class 2", "class 3")
    assert model.decoder.aux_classifier is None


@pytest.mark.slow  # every day, narrow networks of pytorch-fcn go through the verb
def test_the_verb_writes_a_model_file_that_predicts(published, tmp_path, monkeypatch, capsys):
    path, _ = published
    out = tmp_path / "model.safetensors"
    assert run(monkeypatch, "import", path, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "classes          background (0), aeroplane (1)" in printed
    assert read_description(out)["training"]["imported"]["source"].startswith("file fcn_resnet50_coco.pth sha256:")
    Image.fromarray(np.zeros((33, 47, 3), np.uint8)).save(tmp_path / "a.png")
    assert run(monkeypatch, "predict", out, tmp_path / "a.png", "-o", tmp_path / "masks") == 0
    assert np.asarray(Image.open(tmp_path / "masks/a.png")).shape == (33, 47)
    assert run(monkeypatch, "publish", out, tmp_path / "card") == 0
    assert run(monkeypatch, "import", path, "-o", out) == 2
    assert torch.equal(load_model(out).decoder.classifier[4].bias, import_model(path).decoder.classifier[4].bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("backbone.layer2.1.conv2.weight"), "missing: backbone.layer2.1.conv2.weight"),
        (lambda state: state.update({"backbone.fc.weight": torch.zeros(2)}), "unexpected: backbone.fc.weight"),
        (
            lambda state: state.update({"classifier.0.weight": torch.zeros(2)}),
            "of another shape: classifier.0.weight",
        ),
        (lambda state: state["classifier.4.bias"].fill_(torch.nan), "no finite numbers in classifier.4.bias"),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("backbone.layer3.5.")],
            "expected an FCN-ResNet with 6 or 23 blocks in layer3 .* got 5",
        ),
    ],
)
def test_a_tensor_that_is_not_as_it_has_to_be_is_named(published, tmp_path, change, message):
    state = {key: tensor.clone() for key, tensor in published[1].state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=message):
        import_model(tmp_path / "changed.pth")


def test_what_is_no_network_that_is_known_is_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="holds no weights of a whole network that is known here"):
        import_model(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"expected a \.pth, .*\.caffemodel file, got nothing there"):
        import_model(tmp_path / "none.pth")
    (tmp_path / "x.prototxt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="got a file of another kind"):
        import_model(tmp_path / "x.prototxt")
