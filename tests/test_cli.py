"""The command line: what goes where, exit codes, and one line for each error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from weights_server import serving

from fullyconv.config import TrainConfig
from fullyconv.encoders import build_network, vgg
from fullyconv.settings import read_config
from fullyconv.synthetic import write_dataset
from fullyconv.tiles import Halo
from fullyconv.weights import DownloadableWeights

QUICK = ["--steps", "0", "--epochs", "2", "--hidden", "0", "--scales", "1", "--pixels", "64", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli") / "data"
    write_dataset(root, train=3, val=1, test=1, size=(48, 64), seed=4)
    return root


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli-run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "train", data, "-o", folder, *QUICK, "--dropout", "0.2", "--ignore", "200,201") == 0
    return folder / "best.safetensors"


def test_training_keeps_its_settings(model):
    settings = read_config(model.parent / "config.toml")
    assert settings["dropout"] == 0.2
    assert settings["ignore"] == [200, 201]


def test_json_is_alone_on_standard_output(model, data, monkeypatch, capsys):
    assert run(monkeypatch, "evaluate", model, data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 <= report["mean_iou"] <= 1
    assert report["images"] == 1


def test_evaluate_prints_a_table_and_draws_the_matrix(model, data, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "evaluate", model, data, "--split", "all", "--matrix", tmp_path / "matrix.png") == 0
    assert "mean IoU" in capsys.readouterr().out
    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.size[0] > 100


def test_predict_writes_masks_and_overlays(model, data, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "predict", model, data / "images" / "test", "-o", tmp_path / "masks") == 0
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["0000.png", "0000_overlay.png"]
    assert capsys.readouterr().out == ""


def test_info_describes_the_model(model, monkeypatch, capsys):
    assert run(monkeypatch, "info", model) == 0
    printed = capsys.readouterr().out
    assert "efficientnet_lite0" in printed
    assert "426 px above and left, 457 px below and right; tiles begin on a grid of 32 px" in printed
    assert "10000 x 10000 px with " in printed
    assert run(monkeypatch, "info", model, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["decoder"]["name"] == "practical"
    assert described["tiling"]["halo"] == [426, 457]
    assert described["tiling"]["recomputed"] >= 0


def test_predict_cuts_images_into_tiles_and_verifies_them(model, tmp_path, monkeypatch, capsys):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (192, 1100, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    for out, more in (("whole", []), ("tiles", ["--tile", "64", "--no-overlay"])):
        assert run(monkeypatch, "predict", model, tmp_path / "wide.png", "-o", tmp_path / out, *more) == 0
    whole, tiled = (Image.open(tmp_path / out / "wide.png").tobytes() for out in ("whole", "tiles"))
    assert whole == tiled
    words = ["predict", model, tmp_path / "wide.png", "--verify-tiling"]
    capsys.readouterr()
    assert run(monkeypatch, *words, "--tile", "64") == 0
    assert "54 tiles of 64 x 64 px, halo 426 px above and left" in capsys.readouterr().out
    assert run(monkeypatch, *words, "--tile", "128") == 2
    assert "expected at least 3 x 3 tiles, an image of 192 x 1100 px has 2 x 9" in capsys.readouterr().err
    monkeypatch.setattr("fullyconv.model.FCN.halo", Halo(0, 0))
    assert run(monkeypatch, *words, "--tile", "64") == 1
    assert "wide.png: the tiles differ from the whole image" in capsys.readouterr().err


def test_explain_prints_a_model_file_and_measures_its_strides(model, data, tmp_path, monkeypatch, capsys):
    figure = tmp_path / "figure.png"
    words = ["explain", model, "--size", "48x64", "-o", figure, "--data", data, "--split", "all", "--images", "2"]
    assert run(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "skip_stage7" in printed
    assert "48x64 padded to multiples of 32: 64x64" in printed.replace("\n ", "")
    assert "mean IoU on 2 of 5 images (seed 0)" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figure.png",
        "figure_contributions.png",
        "figure_skips.png",
    ]


def test_explain_draws_the_lectures_figure_in_its_four_steps(tmp_path, monkeypatch, capsys):
    words = ["explain", "vgg16+lecture", "--classes", "2", "-o", tmp_path / "lecture.svg", "--steps", "--json"]
    assert run(monkeypatch, *words) == 0
    assert json.loads(capsys.readouterr().out)["trained"]["parameters"] == 121_799_428
    assert len(list(tmp_path.glob("lecture_[1-4].svg"))) == 4


def test_explain_follows_an_image_file(data, monkeypatch, capsys):
    image = next((data / "images" / "test").iterdir())
    assert run(monkeypatch, "explain", "efficientnet_lite0+fcn", "--image", image, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sizes"]["padded"] == [{"scale": 1.0, "size": [64, 64]}]


def test_the_cache_is_shown_and_emptied(model, monkeypatch, capsys):
    assert run(monkeypatch, "cache", "info") == 0
    assert "entries" in capsys.readouterr().out
    assert run(monkeypatch, "cache", "clear") == 0
    assert "removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere"], "nowhere"),
        (["train", "DATA", "--stride", "5"], "setting stride"),
        (
            ["train", "DATA", "--recipe", "slow"],
            "recipe has to be one of default, fast, tuned, lecture-exact, got 'slow'",
        ),
        (["train", "DATA", "--resume"], "-o RUN"),
        (["train", "DATA", "-o", "OUT", "--resume", "--recipe", "fast"], "got --recipe"),
        (["train", "DATA", "-o", "OUT", "--resume", "--from", "MODEL"], "got --from"),
        (["train", "DATA", "-o", "OUT", "--resume", "--config", "c.toml"], "got --config"),
        (["train", "DATA", "-o", "OUT", "--resume", "--epochs", "9"], "got --epochs"),
        (["train", "DATA", "--device", "tpu"], "device"),
        (["train", "DATA", "--instant", "--hidden", "8"], "instant needs hidden 0, got 8"),
        (["train", "DATA", "--instant", "--from", "MODEL"], "the closed form starts from nothing"),
        (["evaluate", "DATA/classes.txt", "DATA"], "classes.txt"),
        (["evaluate", "MODEL", "DATA", "--split", "nosuch"], "nosuch"),
        (["predict", "MODEL", "nothing-here", "-o", "OUT"], "no image found at nothing-here"),
        (
            ["predict", "MODEL", "DATA/images", "-o", "OUT", "--memory", "lots"],
            "expected an amount of memory",
        ),
        (["predict", "MODEL", "DATA/images"], "expected a folder for the masks, got none (name it with -o DIR)"),
        (["explain", "nothing-here"], "expected a model file or ENCODER+DECODER, got nothing-here"),
        (["explain", "MODEL", "--classes", "3"], "a model file has its own settings, got --classes"),
        (["explain", "vgg16+fcn", "--size", "12"], "--size has to be HEIGHTxWIDTH in pixels, got '12'"),
        (["explain", "vgg16+fcn", "--size", "8x8", "--image", "a.png"], "--size or --image, got both"),
        (["explain", "vgg16+fcn", "--data", "DATA"], "--data needs a trained model, got names"),
        (["explain", "vgg16+fcn", "--steps"], "--steps needs a figure to draw"),
        (["no-such-verb"], "no-such-verb"),
        (["train", "DATA", "--no-such-option"], "no-such-option"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    words, message, model, data, tmp_path, monkeypatch, capsys
):
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word.replace("DATA", str(data))) for word in words]
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_where_nothing_was_held_out_evaluation_warns(model, data, tmp_path, monkeypatch, capsys):
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "train", tmp_path / "flat" / kind)
    assert run(monkeypatch, "evaluate", model, tmp_path / "flat", "--json") == 0
    captured = capsys.readouterr()
    assert "may be among them" in captured.err
    assert json.loads(captured.out)["split"] == "all"


def test_a_file_in_the_place_of_the_output_folder_is_one_line(model, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("a file")
    assert run(monkeypatch, "predict", model, data / "images" / "test", "-o", tmp_path / "out") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_is_one_line(data, monkeypatch, capsys):
    run(monkeypatch, "train", data, "--recipe", "slow")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failure_ends_with_1(data, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "train", data, "-o", tmp_path / "run", *QUICK, "--lr", "1e30") == 1
    assert "the loss is" in capsys.readouterr().err


def test_an_instant_run_makes_a_model(data, tmp_path, monkeypatch, capsys):
    words = ["train", data, "-o", tmp_path / "run", "--instant", "--recipe", "fast", "--pixels", "64"]
    assert run(monkeypatch, *words, "--threads", "1") == 0
    assert "epoch 1/1" in capsys.readouterr().err
    assert run(monkeypatch, "evaluate", tmp_path / "run" / "best.safetensors", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["mean_iou"] > 0.2


def test_a_random_encoder_is_announced_loudly(data, tmp_path, monkeypatch, capsys):
    words = ["train", data, "-o", tmp_path / "run", *QUICK, "--encoder-weights", "none", "--stride", "32"]
    assert run(monkeypatch, *words) == 0
    assert "RANDOM" in capsys.readouterr().err


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server with the weights of a VGG16 of two channels, as long as the test runs the only VGG16."""
    monkeypatch.setattr(vgg, "CONVOLUTIONS", ((2,),) * 5)
    torch.save(build_network("vgg16", "none").state_dict(), tmp_path / "vgg16.pth")
    with serving((tmp_path / "vgg16.pth").read_bytes()) as server:
        monkeypatch.setattr(vgg.VGG16, "downloadable", DownloadableWeights(server.name))
        monkeypatch.setenv("FULLYCONV_WEIGHTS_URL", server.url)
        monkeypatch.setenv("FULLYCONV_OFFLINE", "0")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def test_training_downloads_weights_once_and_using_the_model_never(published, data, tmp_path, monkeypatch, capsys):
    words = ["train", data, "-o", tmp_path / "run", *QUICK, "--encoder", "vgg16"]
    assert run(monkeypatch, *words) == 0
    assert f"downloading {published.url}/{published.name}" in (tmp_path / "run" / "log.txt").read_text()
    shutil.rmtree(tmp_path / "torch")
    model = tmp_path / "run" / "best.safetensors"
    assert run(monkeypatch, "info", model) == 0
    assert f"file {published.name} sha256:" in capsys.readouterr().out
    assert run(monkeypatch, "evaluate", model, data) == 0
    assert run(monkeypatch, "predict", model, data / "images" / "test", "-o", tmp_path / "masks") == 0
    assert len(published.requests) == 1
    assert not (tmp_path / "torch").exists()


def test_offline_is_no_setting_of_the_run(published, data, tmp_path, monkeypatch, capsys):
    words = ["train", data, *QUICK, "--encoder", "vgg16", "-o"]
    assert run(monkeypatch, *words, tmp_path / "offline", "--offline") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: there is no {tmp_path / 'torch'}")
    assert published.requests == []
    assert run(monkeypatch, *words, tmp_path / "first") == 0
    # The folder of the refused run is free, and the file is there now.
    assert run(monkeypatch, *words, tmp_path / "offline", "--offline") == 0
    first, offline = ((tmp_path / name / "config.toml").read_text() for name in ("first", "offline"))
    assert first == offline
    assert len(published.requests) == 1


def test_a_failed_download_ends_with_1_and_leaves_no_run_behind(published, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vgg.VGG16, "downloadable", DownloadableWeights("vgg16-397923af.pth"))
    assert run(monkeypatch, "train", data, "-o", tmp_path / "run", *QUICK, "--encoder", "vgg16") == 1
    assert "the SHA-256 has to start with 397923af" in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "run").iterdir()) == []


def test_after_ctrl_c_in_a_download_the_same_command_works(published, data, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    words = ["train", data, "-o", tmp_path / "run", *QUICK, "--encoder", "vgg16"]
    with monkeypatch.context() as patch:
        patch.setattr("fullyconv.weights.download", interrupt)
        assert run(patch, *words) == 130
    assert run(monkeypatch, *words) == 0


@pytest.mark.parametrize("weights", ["none", "FILE"])
def test_other_weights_than_pretrained_ones_need_no_network(weights, published, data, tmp_path, monkeypatch):
    words = ["train", data, "-o", tmp_path / "run", *QUICK, "--encoder", "vgg16", "--offline"]
    file = tmp_path / "vgg16.pth" if weights == "FILE" else weights
    assert run(monkeypatch, *words, "--encoder-weights", file) == 0
    assert published.requests == []


def test_every_setting_is_an_option_and_shows_its_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    run(monkeypatch, "train", "--help")
    text = capsys.readouterr().out
    for name in TrainConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "1,1.5" in text


def test_the_default_run_folder_is_named_after_the_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", data, *QUICK) == 0
    assert (tmp_path / "runs" / "data-1" / "best.safetensors").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signals_end_a_training_that_can_be_resumed(number, code, data, tmp_path):
    words = [sys.executable, "-m", "fullyconv", "train", str(data), "-o", str(tmp_path / "run")]
    settings = ["--epochs", "100000", "--scales", "1", "--hidden", "0", "--patience", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*words, *settings],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # A shell's background jobs ignore Ctrl-C.
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoint").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert not list((tmp_path / "run").rglob("*.tmp"))
