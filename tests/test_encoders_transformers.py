"""Networks of transformers: what they give is what the library gives, and they are encoders like any other."""

import json

import numpy as np
import pytest
import torch
from command_line import answer, run
from test_encoders_adapters import check_field, tiles_that_differ
from tiny_adapted import HF, hf_folder, needs_hf

from fullyconv.class_table import ClassTable
from fullyconv.encoders import bare_network, build_network, fetch_pretrained
from fullyconv.encoders.transformers import _form_of, rebuild
from fullyconv.errors import ModelFileError, UsageError, WeightsError
from fullyconv.model import FCN
from fullyconv.model_file import load_model, read_description, save_model
from fullyconv.predict import Predictor
from fullyconv.synthetic import write_dataset

pytestmark = needs_hf

SEES_ALL = {"swin", "dinov2"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@torch.no_grad()
@pytest.mark.parametrize("kind", HF)
def test_features_are_those_of_the_library(tmp_path, kind):
    folder, reference = hf_folder(tmp_path, kind)
    network = build_network(f"hf:{folder}")
    last = network.taps[-1].stride
    images = torch.randn(1, 3, 3 * last, 4 * last)
    expected = dict(zip(reference.out_features, reference(images).feature_maps, strict=True))
    maps = network(images, [tap.stride for tap in network.taps])
    for tap, values in zip(network.taps, maps, strict=True):
        torch.testing.assert_close(values, expected[tap.name])
        assert values.shape[1:] == (tap.channels, 3 * last // tap.stride, 4 * last // tap.stride)
    assert network.sees_all is (kind in SEES_ALL)
    assert [tap.stride for tap in network.taps] == ([14] if kind == "dinov2" else [4, 8, 16, 32])
    assert network.weights_source.startswith(f"folder {kind} sha256:")
    again = bare_network(network.name, json.loads(json.dumps(network.architecture)))
    again.load_state_dict(network.state_dict())
    for values, others in zip(maps, again(images, [tap.stride for tap in again.taps]), strict=True):
        assert torch.equal(values, others)


@pytest.mark.parametrize("kind", ["resnet", "convnext", "dinov3_convnext"])
def test_receptive_fields_are_exactly_what_cells_see(tmp_path, kind):
    check_field(build_network(f"hf:{hf_folder(tmp_path, kind)[0]}"))


@pytest.mark.parametrize("kind", ["resnet", "dinov3_convnext"])
def test_tiles_have_the_bits_of_the_whole_image(tmp_path, kind):
    assert tiles_that_differ(f"hf:{hf_folder(tmp_path, kind)[0]}") == (0, 0)


def test_means_and_deviations_are_those_of_the_folder(tmp_path):
    folder, _ = hf_folder(tmp_path, "resnet")
    assert build_network(f"hf:{folder}", "none").input_convention.mean == (123.675, 116.28, 103.53)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25], "image_processor_type": "x"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    network = build_network(f"hf:{folder}", "none")
    assert network.input_convention.mean == (127.5, 102.0, 76.5)
    assert network.input_convention.std == (127.5, 127.5, 63.75)
    assert bare_network(network.name, network.architecture).input_convention == network.input_convention


def test_a_folder_says_which_of_equal_strides_are_read(tmp_path):
    folder, _ = hf_folder(tmp_path, "dinov2")
    assert [tap.name for tap in build_network(f"hf:{folder}").taps] == ["stage3"]
    config = json.loads((folder / "config.json").read_text())
    chosen = {"out_features": ["stage1", "stage2"], "out_indices": [1, 2]}
    (folder / "config.json").write_text(json.dumps({**config, **chosen}))
    assert [tap.name for tap in build_network(f"hf:{folder}").taps] == ["stage1", "stage2"]


def test_only_safetensors_are_read_and_no_code(tmp_path):
    folder, network = hf_folder(tmp_path, "resnet")
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"the weights of folder resnet cannot be read: .*safetensors"):
        build_network(f"hf:{folder}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    evil = {"AutoConfig": "evil.C", "AutoBackbone": "evil.B"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": evil}))
    assert build_network(f"hf:{folder}", "none").name == "hf:resnet"
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": evil}))
    with pytest.raises(WeightsError, match="the settings of folder resnet cannot be read"):
        build_network(f"hf:{folder}", "none")


def test_a_description_names_no_code_to_compute_with():
    named = {"_attn_implementation": "org/kernel", "experts_implementation": "org/other", "hidden_size": 8}
    nested = {**named, "vision_config": {**named, "layers": [{"attn_implementation": "org/kernel", "kind": 1}]}}
    assert _form_of(nested) == {
        "hidden_size": 8,
        "vision_config": {"hidden_size": 8, "layers": [{"kind": 1}]},
    }


def test_what_is_missing_is_said(tmp_path):
    folder, network = hf_folder(tmp_path, "resnet")
    with pytest.raises(WeightsError, match="are not on this machine, and offline nothing is downloaded"):
        fetch_pretrained("hf:facebook/dinov2-small")
    state = {key: value for key, value in network.state_dict().items() if "stages.1" not in key}
    network.save_pretrained(folder, state_dict=state)
    with pytest.raises(WeightsError, match=r"holds the weights of another network: missing: encoder\.stages\.1"):
        build_network(f"hf:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="the settings of folder resnet cannot be read"):
        build_network(f"hf:{folder}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "timm_backbone", "backbone": "resnet18"},
            r"expected a network of transformers.*timm:NAME",
        ),
        ({"model_type": "nothing"}, "transformers knows no network 'nothing' of this form"),
        ({"model_type": "bert"}, "transformers cannot build a network 'bert' for features"),
        ({"model_type": "resnet", "depths": "x"}, "transformers (knows no|cannot build a) network 'resnet'"),
        ({"model_type": "hiera"}, "does not take images of every size"),
        ({}, "expected a network of transformers, got None"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_in_one_line(config, message):
    with pytest.raises(UsageError, match=message):
        rebuild("hf:mine", {"config": config, "mean": [0.5] * 3, "std": [0.5] * 3})


def test_a_description_may_not_ask_for_layers_without_end():
    config = {"model_type": "dinov2", **HF["dinov2"], "num_hidden_layers": 10**7}
    with pytest.raises(UsageError, match="expected at most 1000 layers, got 10000000"):
        rebuild("hf:mine", {"config": config, "mean": [0.5] * 3, "std": [0.5] * 3})


@pytest.mark.parametrize("kind", ["resnet", "dinov2"])
def test_other_channels_of_the_images(tmp_path, kind):
    network = build_network(f"hf:{hf_folder(tmp_path, kind)[0]}", channels=5)
    images = torch.randn(1, 5, 2 * network.taps[-1].stride, 2 * network.taps[-1].stride)
    maps = network(images, [tap.stride for tap in network.taps])
    again = bare_network(network.name, network.architecture, 5)
    again.load_state_dict(network.state_dict())
    for values, others in zip(maps, again(images, [tap.stride for tap in again.taps]), strict=True):
        assert torch.equal(values, others)


@pytest.mark.parametrize("changes", [{"mean": [0.5]}, {"std": [0, 0, 0]}, {"config": []}, {"mean": ["x"] * 3}])
def test_a_description_of_another_form_is_refused(changes):
    values = {"config": {"model_type": "resnet", **HF["resnet"]}, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(UsageError, match=r"means and deviations|is described by"):
        rebuild("hf:mine", values | changes)


def test_a_model_file_needs_neither_folder_nor_network(tmp_path):
    folder, _ = hf_folder(tmp_path, "dinov3_convnext")
    model = FCN.build(ClassTable.from_values(range(3)), encoder=f"hf:{folder}").eval()
    save_model(model, tmp_path / "first.safetensors")
    folder.rename(tmp_path / "elsewhere")
    assert str(tmp_path).encode() not in (tmp_path / "first.safetensors").read_bytes()
    encoder = read_description(tmp_path / "first.safetensors")["encoder"]
    assert encoder["name"] == "hf:dinov3_convnext"
    assert encoder["architecture"]["config"]["hidden_sizes"] == HF["dinov3_convnext"]["hidden_sizes"]
    again = load_model(tmp_path / "first.safetensors")
    save_model(again, tmp_path / "again.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    images = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_a_model_file_of_another_network_is_refused(tmp_path):
    folder, _ = hf_folder(tmp_path, "resnet")
    model = FCN.build(ClassTable.from_values(range(2)), encoder=f"hf:{folder}")
    model.encoder.network.architecture["config"]["hidden_sizes"] = [8, 12, 16, 24]
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"expected decoder\.skips\.3\.norm\.bias to be"):
        load_model(tmp_path / "model.safetensors")


def test_a_vision_transformer_from_training_to_a_mask_on_the_command_line(tmp_path, monkeypatch):
    hf_folder(tmp_path, "dinov2")
    write_dataset(tmp_path / "data", train=3, val=1, test=1, size=(64, 80))
    monkeypatch.chdir(tmp_path)
    words = ["--encoder", "hf:dinov2", "--encoder-weights", "none", "--epochs", 1, "--steps", 3, "-o", "run"]
    assert run(monkeypatch, "train", "data", *words) == 0
    said = answer(monkeypatch, "info", "run/best.safetensors").stdout
    assert "receptive fields: the whole image at stride 14" in said
    assert "halo             the whole image: tiles cannot be exact" in said
    explained = answer(monkeypatch, "explain", "run/best.safetensors", "--size", "64x80", "-o", "run/figure.svg")
    assert "stage3          14        32      whole image" in explained.stdout
    assert "padded to multiples of 14: 70x84; then 70x84 -> 5x6" in explained.stdout
    assert "sees whole image" in (tmp_path / "run" / "figure.svg").read_text(encoding="utf-8")
    assert run(monkeypatch, "predict", "run/best.safetensors", "data/images/test", "-o", "masks") == 0
    image = np.random.default_rng(0).integers(0, 256, (150, 131, 3), dtype=np.uint8)
    assert Predictor("run/best.safetensors").is_exact((150, 131))
    blended = Predictor("run/best.safetensors", tile=64)
    assert not blended.is_exact((150, 131))
    assert blended.predict(image).shape == (150, 131)
    refused = answer(monkeypatch, "train", "data", *words[:4], "--decoder", "fcn", "-o", "other")
    assert refused.stderr.splitlines()[-1].startswith(
        "error: encoder hf:dinov2 has features at strides 14, not at 8"
    )
