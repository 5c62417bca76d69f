"""Pretraining from images to an autoencoder's file: what it leaves, what it refuses, and that its bits repeat."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from command_line import run
from PIL import Image
from test_train import InterruptBefore

from fullyconv.config import PretrainConfig
from fullyconv.encoders.cae import CAE, PRESETS, load_cae
from fullyconv.errors import DataError, TrainingError, UsageError
from fullyconv.pretrain import _generator as generator
from fullyconv.pretrain import pretrain, psnr, reconstruct
from fullyconv.progress import Silent

QUICK = PretrainConfig(preset="digits", epochs=3, steps=0, batch=4, threads=1, crop=16)


def drawn_images(count=6, size=(16, 24), channels=3):
    """Discs on slopes: something that neighbouring pixels tell about each other."""
    images = []
    for seed in range(count):
        draw = np.random.default_rng(seed)
        rows, columns = np.mgrid[: size[0], : size[1]]
        disc = np.hypot(rows - draw.uniform(0, size[0]), columns - draw.uniform(0, size[1])) < 5
        planes = [np.clip(4 * rows + draw.uniform(0, 120) + 90 * disc, 0, 255) for _ in range(channels)]
        images.append(np.stack(planes, -1).astype(np.uint8))
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "images"
    (folder / "inner").mkdir(parents=True)
    for number, image in enumerate(drawn_images()):
        Image.fromarray(image).save(folder / ("inner" if number % 2 else ".") / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    return pretrain([folder], tmp_path_factory.mktemp("runs") / "run", QUICK)


class Listener(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_a_run_leaves_its_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.run.iterdir()) == [
        "cae.safetensors",
        "checkpoint",
        "config.toml",
        "curves.png",
        "log.txt",
        "metrics.csv",
        "reconstructions.png",
        "split.csv",
    ]


def test_metrics_have_a_line_for_each_epoch(finished):
    with (finished.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(float(row["psnr"]) == pytest.approx(-10 * math.log10(float(row["val_mse"]))) for row in rows)


def test_a_part_of_the_images_is_held_out(finished):
    with (finished.run / "split.csv").open() as file:
        splits = [row["split"] for row in csv.DictReader(file)]
    assert sorted(splits) == ["train"] * 5 + ["val"]


def test_the_file_holds_what_was_trained_and_no_path(finished, folder):
    cae = load_cae(finished.cae)
    assert cae.training_record["val_mse"] == finished.val_mse
    assert cae.training_record["train_images"] == 5
    assert "/" not in json.dumps(cae.training_record)


def test_the_measure_is_that_of_the_slow_way(finished, folder):
    with (finished.run / "split.csv").open() as file:
        [name] = [row["id"] for row in csv.DictReader(file) if row["split"] == "val"]
    with Image.open(folder / f"{name}.png") as image:
        grey = np.asarray(image.convert("L"), np.float64)
    back = reconstruct(load_cae(finished.cae), grey.astype(np.uint8)[..., None])[..., 0].astype(np.float64)
    assert ((back - grey) ** 2).mean() / 255**2 == pytest.approx(finished.val_mse, rel=0.05)


def test_the_loss_falls_and_held_out_images_come_back(tmp_path):
    config = replace(QUICK, epochs=60, lr=1e-2)
    result = pretrain(drawn_images(12, (16, 16), 1), tmp_path / "run", config)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.1 * losses[0]
    # Better than the best constant of each image, by far.
    image = drawn_images(13, (16, 16), 1)[-1]
    back = reconstruct(load_cae(result.cae), image).astype(float)
    assert ((back - image) ** 2).mean() < 0.2 * image.var()


def test_the_same_seed_ends_in_the_same_bits_and_another_does_not(finished, folder, tmp_path):
    again = pretrain([str(folder)], tmp_path / "again", QUICK)
    assert again.cae.read_bytes() == finished.cae.read_bytes()
    other = pretrain([folder], tmp_path / "other", replace(QUICK, seed=1))
    assert other.cae.read_bytes() != finished.cae.read_bytes()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(folder, tmp_path, epoch, noise):
    config = replace(QUICK, noise=noise)
    whole = pretrain([folder], tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        pretrain([folder], tmp_path / "run", config, progress=InterruptBefore(epoch))
    assert not (tmp_path / "run" / "cae.safetensors").exists()
    resumed = pretrain([folder], tmp_path / "run", config, resume=True)
    assert resumed.cae.read_bytes() == whole.cae.read_bytes()
    untimed = [[{**row, "seconds": 0} for row in result.history] for result in (whole, resumed)]
    assert untimed[0] == untimed[1]


def test_with_noise_the_target_is_clean(tmp_path, monkeypatch):
    """With all the noise there is, the best guess is the mean of the images: far from what went in."""
    images = [np.full((8, 8), value, np.uint8) for value in (120, 130, 125, 128)]
    seen = []
    forward = CAE.forward

    def noting(self, given):
        seen.append(given.detach())
        return forward(self, given)

    monkeypatch.setattr(CAE, "forward", noting)
    config = replace(QUICK, noise=0.5, epochs=40, lr=1e-2)
    result = pretrain(images, tmp_path / "run", config)
    assert 0.4 < torch.cat([given.flatten() for given in seen]).std() < 0.6
    assert not torch.equal(seen[0], seen[-20])
    assert result.val_mse < 0.05


def test_without_noise_the_input_is_the_image(tmp_path, monkeypatch):
    seen = []
    forward = CAE.forward
    monkeypatch.setattr(CAE, "forward", lambda self, given: (seen.append(given), forward(self, given))[1])
    pretrain([np.full((8, 8), 51, np.uint8)] * 3, tmp_path / "run", replace(QUICK, epochs=1))
    assert all(torch.allclose(given, torch.tensor(0.2)) for given in seen)


def test_images_of_any_size_and_number_of_channels_can_be_arrays(tmp_path):
    images = [np.random.default_rng(n).integers(0, 256, (n, 20 - n, 5), dtype=np.uint8) for n in range(1, 8)]
    result = pretrain(images, tmp_path / "run", replace(QUICK, channels=5, epochs=1))
    cae = load_cae(result.cae)
    assert cae.architecture.channels == 5
    assert reconstruct(cae, images[3]).shape == images[3].shape


def test_crops_are_no_larger_than_the_largest_image(tmp_path):
    said = Listener()
    images = [np.zeros((8, 9), np.uint8), np.zeros((3, 14), np.uint8)]
    pretrain(images, tmp_path / "run", replace(QUICK, epochs=1, crop=64), progress=said)
    assert any("crops of 8 x 14 pixels" in line for line in said.lines)
    assert any("8 x 14 x 1 > 4 x 7 x 32 > 2 x 4 x 8 and back" in line for line in said.lines)


def test_small_data_gets_more_epochs(tmp_path):
    result = pretrain([np.zeros((4, 4), np.uint8)] * 6, tmp_path / "run", replace(QUICK, epochs=1, steps=5))
    assert len(result.history) == 3  # of two steps each


def test_pooling_is_an_option_that_the_file_remembers(tmp_path):
    result = pretrain(drawn_images(3), tmp_path / "run", replace(QUICK, channels=3, down="pool", epochs=1))
    assert load_cae(result.cae).architecture == replace(PRESETS["digits"], channels=3, down="pool")


def test_a_broken_image_is_refused_by_name_before_the_first_epoch(folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes((folder / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"bad\.png"):
        pretrain([folder, bad], tmp_path / "run", QUICK)
    assert list((tmp_path / "run").iterdir()) == []  # The next try may have the folder.


@pytest.mark.parametrize(
    ("images", "changes", "error", "message"),
    [
        ([np.zeros((4, 4), np.uint8)], {}, DataError, "expected 2 images or more, got 1"),
        ([np.zeros((4, 4))] * 2, {}, UsageError, "an image array has to be H x W .* uint8, got 4 x 4 float64"),
        ([np.zeros((4, 4, 3), np.uint8)] * 2, {}, UsageError, "expected images of 1 channels, array-00000. has 3"),
        (["nowhere"], {}, UsageError, "no image found at nowhere"),
    ],
)
def test_images_that_cannot_be_learned_from_are_refused(images, changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pretrain(images, tmp_path / "run", replace(QUICK, **changes))


def test_files_of_other_channels_are_refused_or_read_as_stored(folder, tmp_path):
    with pytest.raises(DataError, match=r"expected 4 channels, got 3"):
        pretrain([folder], tmp_path / "run", replace(QUICK, channels=4))
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 4096, (40, 48, 2), np.uint16)
        tifffile.imwrite(tmp_path / f"{number}.tif", image, photometric="minisblack", planarconfig="contig")
    settings = replace(QUICK, channels=2, value_range=(0.0, 4095.0), steps=2)
    result = pretrain([tmp_path / f"{number}.tif" for number in range(3)], tmp_path / "two", settings)
    assert load_cae(result.cae).architecture.channels == 2


def test_a_run_is_never_overwritten_and_goes_on_with_its_own_images_and_settings(finished, folder, tmp_path):
    with pytest.raises(UsageError, match="is there already and is not empty"):
        pretrain([folder], finished.run, QUICK)
    with pytest.raises(DataError, match="the images are not those with which the run"):
        pretrain([folder / "inner"], finished.run, QUICK, resume=True)
    with pytest.raises(UsageError, match="is of another run"):
        pretrain([folder], finished.run, replace(QUICK, lr=1.0), resume=True)


def test_a_loss_that_explodes_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) \(lower --lr"):
        pretrain(drawn_images(4, (8, 8), 1), tmp_path / "run", replace(QUICK, lr=1e30, epochs=5))


def test_each_part_of_a_run_draws_for_itself():
    drawn = {torch.rand(1, generator=generator(*parts)).item() for parts in [(0, 1), (0, 2), (1, 1), (0, 1, 0)]}
    assert len(drawn) == 4


def test_psnr_of_a_tenth_is_20_db():
    assert psnr(0.01) == pytest.approx(20)
    assert math.isfinite(psnr(0))


def test_from_images_to_masks_on_the_command_line(tmp_path, monkeypatch, capsys):
    for number, image in enumerate(drawn_images(4, (32, 32))):
        for kind, array in (("images", image), ("masks", (image[..., 0] > 128).astype(np.uint8))):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "data" / kind / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    quick = ["--steps", 0, "--epochs", 1, "--threads", 1]
    assert run(monkeypatch, "pretrain", "data/images", "-o", "cae", "--preset", "digits", *quick) == 0
    encoder = ["--encoder", "cae:cae/cae.safetensors", "--stride", 2, "--pixels", 32]
    assert run(monkeypatch, "train", "data", "-o", "fcn", "--decoder", "cae", *encoder, *quick) == 0
    (tmp_path / "cae" / "cae.safetensors").unlink()
    capsys.readouterr()
    assert run(monkeypatch, "info", "fcn/best.safetensors", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["encoder"]["name"] == described["training"]["config"]["encoder"] == "cae"
    assert run(monkeypatch, "predict", "fcn/best.safetensors", "data/images", "-o", "masks") == 0
    assert run(monkeypatch, "pretrain", "data/images", "-o", "cae", "--resume", "--lr", 1) == 2
    assert "--resume goes on with the settings of cae, got --lr" in capsys.readouterr().err
    assert run(monkeypatch, "pretrain", "data/images", "--resume") == 2
    assert run(monkeypatch, "pretrain", "data/images", "-o", "cae", "--resume") == 0
    assert (tmp_path / "cae" / "cae.safetensors").exists()


def test_the_start_from_components_is_better_than_chance_and_is_kept_by_a_checkpoint(folder, tmp_path):
    said = {start: Listener() for start in ("components", "random")}
    for start, listener in said.items():
        pretrain([folder], tmp_path / start, replace(QUICK, epochs=1, lr=1e-9, start=start), progress=listener)
    errors = {start: float(listener.lines[-1].split()[4].rstrip(",")) for start, listener in said.items()}
    assert errors["components"] < 0.2 * errors["random"]
    assert any(line.startswith("start from principal components: val MSE") for line in said["components"].lines)
