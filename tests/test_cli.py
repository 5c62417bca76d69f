"""The command line: what goes where, exit codes, and one line for each error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from fullyconv import cli
from fullyconv.config import TrainConfig, read_config
from fullyconv.synthetic import write_dataset

QUICK = ["--steps", "0", "--epochs", "2", "--hidden", "0", "--scales", "1", "--pixels", "64", "--threads", "1"]


def run(monkeypatch, *words):
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fullyconv", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


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
    assert "efficientnet_lite0" in capsys.readouterr().out
    assert run(monkeypatch, "info", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["decoder"]["name"] == "practical"


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
        (["train", "DATA", "--recipe", "slow"], "recipe has to be one of default, fast, got 'slow'"),
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
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_training_that_can_be_resumed(number, code, data, tmp_path):
    words = [sys.executable, "-m", "fullyconv", "train", str(data), "-o", str(tmp_path / "run")]
    settings = ["--epochs", "100000", "--scales", "1", "--hidden", "0", "--patience", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*words, *settings], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoint").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert not list((tmp_path / "run").rglob("*.tmp"))
