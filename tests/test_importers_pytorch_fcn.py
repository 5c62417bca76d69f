"""pytorch-fcn's checkpoints -> model files: the logits of a plain re-implementation, and what is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from command_line import run
from oracles import random_reference
from PIL import Image
from released import PlainVGG, make_narrow, parity

from fullyconv.errors import UsageError, WeightsError
from fullyconv.importers import import_model
from fullyconv.importers.pytorch_fcn import is_ours
from fullyconv.model_file import load_model, read_description, save_model
from fullyconv.predict import Predictor
from fullyconv.verify import verify_tiling
from fullyconv.weights import load_weights

NETWORKS = {"32s": (32, False), "16s": (16, False), "8s": (8, False), "8s-atonce": (8, True)}
SIZES = [(1, 1), (1, 47), (31, 33), (32, 32), (65, 100)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    make_narrow(monkeypatch, 32)


def published(name, folder, **options):
    """A file as it was published, and its network."""
    torch.manual_seed(1)
    reference = random_reference(lambda: PlainVGG(*NETWORKS[name], divisor=32, **options))
    path = folder / f"fcn{name}_from_caffe.pth"
    torch.save(reference.state_dict(), path)
    return path, reference


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_those_of_a_plain_network_at_any_size(name, tmp_path):
    path, reference = published(name, tmp_path)
    model = import_model(path)
    assert max(parity(model, reference, size) for size in SIZES) < 1e-5
    assert (model.decoder.stride, model.decoder.at_once) == NETWORKS[name]
    assert model.class_table.names[15] == "person"
    assert model.encoder.input_convention.channel_order == "BGR"


def test_at_once_and_in_stages_differ_in_nothing_but_the_scales(tmp_path):
    path, reference = published("8s", tmp_path)
    assert parity(import_model(path, at_once=True), reference, (40, 40)) > 1e-3
    reference.scales = (0.01, 0.0001)
    assert parity(import_model(path, at_once=True), reference, (40, 40)) < 1e-5


@pytest.mark.parametrize(
    ("arch", "file", "asked", "at_once", "why"),
    [
        ("FCN8s", "checkpoint.pth.tar", None, False, "arch FCN8s"),
        ("FCN8sAtOnce", "model_best.pth.tar", None, True, "arch FCN8sAtOnce"),
        ("FCN8s", "fcn8s-atonce.pth", None, False, "arch FCN8s"),
        ("FCN8s", "checkpoint.pth.tar", True, True, "as asked for"),
        ("DataParallel", "FCN8s_at_once.pth", None, True, "by the name of the file"),
        ("DataParallel", "mine.pt", None, False, "nothing says at once"),
        ("DataParallel", "fcn8s-atonce.pth", False, False, "as asked for"),
    ],
)
def test_a_checkpoint_says_which_it_is_then_its_name_unless_told(arch, file, asked, at_once, why, tmp_path):
    state = published("8s", tmp_path)[1].state_dict()
    path = tmp_path / file
    entries = {"epoch": 3, "iteration": 9, "best_mean_iu": np.float64(0.6), "optim_state_dict": {"state": {}}}
    torch.save({**entries, "arch": arch, "model_state_dict": state}, path)
    model = import_model(path, at_once=asked)
    assert model.decoder.at_once == at_once
    name = "FCN-8s at once" if at_once else "FCN-8s"
    assert model.training_record["imported"]["network"] == f"{name} ({why})"


def test_a_checkpoint_is_read_without_running_it(tmp_path):
    state = published("32s", tmp_path)[1].state_dict()
    path = tmp_path / "old.pth.tar"
    torch.save({"best_mean_iu": np.float64(0.5), "arch": "FCN32s", "model_state_dict": state}, path)
    assert load_weights(path, checkpoints=True).arch == "FCN32s"
    with pytest.raises(WeightsError, match="encoder weights have to be"):
        load_weights(path)
    torch.save({"model_state_dict": state, "extra": Image.new("L", (1, 1))}, path)
    with pytest.raises(WeightsError, match="it was not opened, since it could run code"):
        import_model(path)


def test_what_contradicts_itself_is_refused(tmp_path):
    path, reference = published("16s", tmp_path)
    with pytest.raises(
        UsageError, match=r"only an FCN-8s is trained at once, fcn16s_from_caffe\.pth is an FCN-16s"
    ):
        import_model(path, at_once=True)
    torch.save({"arch": "FCN8s", "model_state_dict": reference.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="says that it is FCN8s, its tensors are those of FCN-16s"):
        import_model(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv3_2.bias"), "missing: conv3_2.bias"),
        (lambda state: state.update({"fc8.weight": torch.zeros(2)}), "unexpected: fc8.weight"),
        (lambda state: state.update({"fc6.weight": torch.zeros(2)}), "of another shape: fc6.weight"),
        (lambda state: state.update({"score_fr.weight": torch.zeros(())}), "of another shape: score_fr.weight"),
        (
            lambda state: state.update({"fc7.weight": torch.zeros(2**40, 0, 1, 1)}),
            r"shape: .* fc7.weight \(1099511627776, 0, 1, 1\)",
        ),
        (lambda state: state["upscore8.weight"].fill_(torch.nan), "no finite numbers in upscore8.weight"),
        (lambda state: state.pop("upscore8.weight"), "expected one of upscore.weight, .* got none"),
        (lambda state: state.update({"upscore.weight": torch.zeros(2)}), "got upscore.weight, upscore8.weight"),
    ],
)
def test_a_tensor_that_is_not_as_it_has_to_be_is_named(change, message, tmp_path):
    state = {key: tensor.clone() for key, tensor in published("8s", tmp_path)[1].state_dict().items()}
    assert is_ours(load_weights(tmp_path / "fcn8s_from_caffe.pth"))
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=message):
        import_model(tmp_path / "changed.pth")


def test_other_classes_are_numbered(tmp_path):
    path, reference = published("16s", tmp_path, classes=3)
    model = import_model(path)
    assert model.class_table.names == ("class 0", "class 1", "class 2")
    assert parity(model, reference, (50, 40)) < 1e-5


def test_a_model_file_says_its_size_policy_and_comes_back_with_it(tmp_path):
    path, _ = published("8s-atonce", tmp_path)
    model = import_model(path)
    save_model(model, tmp_path / "model.safetensors")
    assert read_description(tmp_path / "model.safetensors")["size_policy"] == "pad-100"
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.description() == model.description()
    images = torch.randint(0, 256, (2, 3, 45, 37)).byte()
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("name", [pytest.param("32s", marks=pytest.mark.slow), "8s"])
def test_tiles_and_rows_give_the_whole(name, tmp_path):
    path, reference = published(name, tmp_path, classes=6)
    with torch.no_grad():
        last = "upscore.weight" if name == "32s" else "upscore8.weight"
        reference.get_parameter(last).normal_()  # every pixel a class of its own: whatever is amiss shows
    torch.save(reference.state_dict(), path)
    predictor = Predictor(import_model(path), tile=224)
    image = np.random.default_rng(0).integers(0, 256, (711, 700, 3), np.uint8)
    found = verify_tiling(predictor, image)
    assert found.tiles == 16
    assert found.rows == 224
    assert found.exact
    assert (found.found.different, found.found_by_rows.different) == (0, 0)
    assert len(np.unique(predictor.predict(image))) == 6


@pytest.mark.slow
def test_the_published_layout_at_its_real_width(tmp_path, monkeypatch):
    monkeypatch.undo()
    torch.manual_seed(0)
    counts = {"32s": 136_152_917, "16s": 134_815_994, "8s": 134_489_759, "8s-atonce": 134_489_759}
    for name, count in counts.items():
        reference = random_reference(partial(PlainVGG, *NETWORKS[name]))
        path = tmp_path / f"fcn{name}.pth"
        torch.save(reference.state_dict(), path)
        model = import_model(path)
        parts = (model.encoder.network, model.decoder)
        assert sum(value.numel() for part in parts for value in part.state_dict().values()) == count
        assert parity(model, reference, (65, 47)) < 1e-5
        path.unlink()


def test_the_verbs_take_it(tmp_path, monkeypatch, capsys):
    path, _ = published("8s-atonce", tmp_path)
    out = tmp_path / "model.safetensors"
    assert run(monkeypatch, "import", path, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "imported         FCN-8s at once (by the name of the file), from file fcn8s-atonce" in printed
    assert "size policy      pad-100: by 100 px on each side, cells every 32 px" in printed
    assert run(monkeypatch, "info", out) == 0
    assert "halo             245 px above and left, 245 px below and right; tiles begin on a grid of 32 px" in (
        capsys.readouterr().out
    )
    Image.fromarray(np.zeros((33, 47, 3), np.uint8)).save(tmp_path / "a.png")
    assert run(monkeypatch, "predict", out, tmp_path / "a.png", "-o", tmp_path / "masks") == 0
    assert np.asarray(Image.open(tmp_path / "masks/a.png")).shape == (33, 47)
    capsys.readouterr()
    assert run(monkeypatch, "import", path, "-o", tmp_path / "b.safetensors", "--no-at-once") == 0
    assert "FCN-8s (as asked for)" in capsys.readouterr().out
