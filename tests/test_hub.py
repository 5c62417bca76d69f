"""Models with their cards, as folders; the Hub itself is played by its library's functions."""

import importlib

import pytest
import torch
import yaml
from command_line import answer

from fullyconv.class_table import ClassTable
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.hub import from_pretrained, model_card, push_to_hub, save_pretrained
from fullyconv.model import FCN
from fullyconv.model_file import read_description, save_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FCN.build(ClassTable.from_names(["background", 'größe: "x"']), decoder="practical", stride=8, hidden=4)


def head_of(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_folder_has_the_model_and_a_card_and_comes_back(model, tmp_path):
    folder = save_pretrained(model, tmp_path / "my model", data="12 photos", licence="Apache-2.0")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    loaded = from_pretrained(folder)
    assert loaded.description() == model.description()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    head, body = head_of((folder / "README.md").read_text(encoding="utf-8"))
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "image-segmentation"
    assert body.startswith("\n# my model\n")
    assert 'background, größe: "x".' in body
    assert "Trained on 12 photos." in body
    assert "licence Apache-2.0" in body


def test_a_model_file_is_copied_byte_for_byte(model, tmp_path):
    save_model(model, tmp_path / "best.safetensors")
    folder = save_pretrained(tmp_path / "best.safetensors", tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "best.safetensors").read_bytes()
    assert "license" not in head_of((folder / "README.md").read_text(encoding="utf-8"))[0]


def test_the_score_is_in_the_head_with_what_it_is_of(model, tmp_path):
    save_model(model, tmp_path / "m.safetensors")
    description = read_description(tmp_path / "m.safetensors")
    assert "not measured" in model_card(description, "x")
    record = {"val_mean_iou": 0.70015, "val_images": 101, "train_images": 367, "config": {"lr": 0.005}}
    head, body = head_of(model_card({**description, "training": record}, "x", data="streets"))
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "name": "mean IoU (val)", "value": 0.7002}]
    assert result["dataset"]["name"] == "streets"
    assert "Mean IoU 0.7002 on the 101 images of the validation split" in body
    assert "367 images, lr 0.005" in body


def test_nothing_is_written_over_and_nothing_damaged_is_published(model, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="there exists already"):
        save_pretrained(model, tmp_path / "there")
    save_model(model, tmp_path / "m.safetensors")
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-9] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="is damaged"):
        save_pretrained(tmp_path / "m.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Hub:
    """Plays huggingface_hub: a repository is a folder."""

    def __init__(self, root):
        self.root, self.made = root, []

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.made.append((name, private))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns):
        (self.root / repo_id).mkdir(parents=True)
        for name in allow_patterns:
            (self.root / repo_id / name).write_bytes((folder_path / name).read_bytes())
        return f"https://hub/{repo_id}/commit/1"

    def hf_hub_download(self, name, file, *, revision):
        path = self.root / name / file
        if not path.exists() or revision not in (None, "main"):
            raise OSError(f"404: no {name}\nat {revision}")
        return str(path)


def test_a_folder_goes_to_the_hub_and_comes_back(model, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("fullyconv.hub._hub", lambda: hub)
    folder = save_pretrained(model, tmp_path / "mine")
    assert push_to_hub(folder, "me/mine") == "https://hub/me/mine/commit/1"
    assert hub.made == [("me/mine", True)]
    assert from_pretrained("me/mine").description() == model.description()
    with pytest.raises(
        ModelFileError, match=r"me/other: expected a folder .* got none \(404: no me/other at None\)"
    ):
        from_pretrained("me/other")
    with pytest.raises(ModelFileError, match="got none"):
        from_pretrained("me/mine", revision="v2")
    (folder / "README.md").unlink()
    with pytest.raises(UsageError, match=r"expected what save_pretrained writes, README\.md missing"):
        push_to_hub(folder, "me/mine")


def test_the_functions_that_are_called_are_there():
    hub = importlib.import_module("huggingface_hub")
    for name in ("create_repo", "upload_folder", "hf_hub_download"):
        assert callable(getattr(hub, name))


def test_without_the_library_the_extra_is_named(model, tmp_path, monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UsageError) as caught:
        from_pretrained("me/mine")
    assert caught.value.hint == 'install it with: pip install "fullyconv[hub]"'


def test_the_command(model, tmp_path, monkeypatch):
    save_model(model, tmp_path / "m.safetensors")
    done = answer(monkeypatch, "publish", tmp_path / "m.safetensors", tmp_path / "out", "--license", "MIT")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert head_of((tmp_path / "out/README.md").read_text(encoding="utf-8"))[0]["license"] == "mit"
