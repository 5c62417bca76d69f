"""Image files predicted by the workers of a cluster: the bytes of one process, and nothing lost or replaced."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import command_line
import fsspec
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tiny_networks import make_thin

from fullyconv.class_table import ClassTable
from fullyconv.distribute import statuses_of
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor
from fullyconv.predict_cluster import predict_on_cluster
from fullyconv.predict_files import predict_files
from fullyconv.predict_work import PredictSettings

SIZES = [(40, 52), (64, 30), (33, 70), (48, 48)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch, 8)
        torch.manual_seed(1)
        network = FCN.build(
            ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4, encoder_weights="none"
        )
    torch.nn.init.normal_(network.decoder.score.weight)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(network, path)
    return path


@pytest.fixture
def images(tmp_path):
    draw = np.random.default_rng(0)
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("sub" if number % 2 else ".") / f"{number // 2}.png")
    return folder


class Here:
    """Stands in for Ray: batches are done in this process."""

    def __init__(self, order=list, rounds=1):
        self.order, self.rounds, self.batches = order, rounds, []

    def cores(self):
        return 2

    def run(self, worker, arguments, batches, **options):
        self.batches += batches
        made = worker(**arguments)
        for batch in self.order(batches) * self.rounds:
            found = made({"batch": [json.dumps({"id": batch.id, "items": batch.items})]})
            yield statuses_of(found["found"][0])

    def opened(self, *arguments):
        return contextlib.nullcontext(self)


@pytest.fixture
def here(monkeypatch):
    make_thin(monkeypatch, 8)
    ray = Here()
    monkeypatch.setattr("fullyconv.predict_cluster.opened_cluster", lambda *arguments: ray.opened(*arguments))
    return ray


def files(folder):
    """Name and content of all that is not of the job."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".png", ".tif", ".npz")
    }


def alone(model, images, out, **outputs):
    """What one process writes."""
    from fullyconv.image_files import find_images

    predict_files(Predictor(model), find_images([images]), out, **outputs)
    return files(out)


def test_the_files_are_those_of_one_process(model, images, tmp_path, here):
    wanted = {"probabilities": True, "confidence": True, "lecture": True}
    whole = alone(model, images, tmp_path / "one", **wanted)
    here.order, here.rounds = lambda batches: batches[::-1], 2  # in any order, and once more
    assert predict_on_cluster(model, [images], tmp_path / "out", PredictSettings(**wanted)) == 4
    assert files(tmp_path / "out") == whole
    assert len(np.unique(np.asarray(Image.open(tmp_path / "out" / "1.png")))) > 1
    left = {path.name for path in (tmp_path / "out" / ".fullyconv").iterdir()}
    assert left == {"job.json", "model.safetensors"}
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["0", "1", "sub/0", "sub/1"]
    assert json.loads(lines[0])["threads"] == torch.get_num_threads() == 1


def test_what_is_done_is_left_alone(model, images, tmp_path, here):
    settings = PredictSettings(overlay=False)
    predict_on_cluster(model, [images], tmp_path / "out", settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out" / "1.png").unlink()
    here.batches.clear()
    predict_on_cluster(model, [images], tmp_path / "out", settings)
    assert [item["key"] for batch in here.batches for item in batch.items] == ["1"]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert {path for path in before if before[path] != after[path]} == {tmp_path / "out" / "1.png"}
    here.batches.clear()
    predict_on_cluster(model, [images], tmp_path / "out", settings)
    assert not here.batches


def test_broken_images_go_to_quarantine_and_the_others_are_done(model, images, tmp_path, here):
    whole = alone(model, images, tmp_path / "one")
    (images / "bad.png").write_text("no image")
    with pytest.raises(
        FullyConvError, match=r"1 of 5 images are in quarantine, all others are done: .*csv"
    ) as ended:
        predict_on_cluster(model, [images], tmp_path / "out", PredictSettings())
    assert ended.value.exit_code == 1
    assert files(tmp_path / "out") == whole
    rows = list(csv.DictReader((tmp_path / "out" / "quarantine.csv").read_text().splitlines()))
    assert [(row["name"], row["file"]) for row in rows] == [("bad", str(images / "bad.png"))]
    assert "bad.png" in rows[0]["reason"]
    shutil.copyfile(images / "0.png", images / "bad.png")
    assert predict_on_cluster(model, [images], tmp_path / "out", PredictSettings()) == 5
    assert not (tmp_path / "out" / "quarantine.csv").exists()


def test_what_no_worker_answered_for_is_tried_again(model, images, tmp_path, here):
    here.order = lambda batches: batches[1:]
    with pytest.raises(FullyConvError, match="1 of 4 images are in quarantine"):
        predict_on_cluster(model, [images], tmp_path / "out", PredictSettings())
    assert "no worker said what became of it" in (tmp_path / "out" / "quarantine.csv").read_text()
    here.order = list
    assert predict_on_cluster(model, [images], tmp_path / "out", PredictSettings()) == 4


def test_files_of_somebody_else_stay(model, images, tmp_path, here):
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").write_text("mine")
    with pytest.raises(UsageError, match=r"0\.png is there already \(choose another folder"):
        predict_on_cluster(model, [images], out, PredictSettings())
    assert files(out) == {"0.png": b"mine"}
    (out / "0.png").rename(tmp_path / "mine")
    predict_on_cluster(model, [images], out, PredictSettings(overlay=False))
    (out / "0.png").write_text("mine")
    (out / "manifest.jsonl").unlink()  # As after a kill between an output and its record.
    with pytest.raises(FullyConvError, match="1 of 4 images are in quarantine"):
        predict_on_cluster(model, [images], out, PredictSettings(overlay=False))
    assert (out / "0.png").read_text() == "mine"
    assert "0.png is there already and is another file" in (out / "quarantine.csv").read_text()


def test_another_job_in_the_folder_is_refused(model, images, tmp_path, here):
    predict_on_cluster(model, [images], tmp_path / "out", PredictSettings(overlay=False))
    with pytest.raises(UsageError, match="holds a job with overlay False, this one has True"):
        predict_on_cluster(model, [images], tmp_path / "out", PredictSettings())
    with pytest.raises(UsageError, match=r"0 is the mask of .*in/0\.png here, not of .*in/sub/0\.png"):
        predict_on_cluster(model, [images / "sub"], tmp_path / "out", PredictSettings(overlay=False))


def test_two_at_a_time_in_one_folder_are_refused(model, images, tmp_path, here):
    from fullyconv.checkpoint import RunLock

    (tmp_path / "out" / ".fullyconv").mkdir(parents=True)
    with RunLock(tmp_path / "out" / ".fullyconv"), pytest.raises(UsageError, match="is held by process"):
        predict_on_cluster(model, [images], tmp_path / "out", PredictSettings())


def test_urls_are_read_and_written(model, images, tmp_path, here):
    whole = alone(model, images, tmp_path / "one")
    memory = fsspec.filesystem("memory")
    memory.put(str(images), "/in", recursive=True)
    with pytest.raises(UsageError, match="no image found at memory://none"):
        predict_on_cluster(model, ["memory://none"], "memory://out", PredictSettings())
    for _ in range(2):
        assert predict_on_cluster(model, ["memory://in"], "memory://out", PredictSettings()) == 4
        found = {name: memory.cat_file(f"/out/{name}") for name in whole}
        assert found == whole
        assert len(memory.find("/out")) == len(whole) + 3  # manifest, job, model
    assert predict_on_cluster(model, [f"file://{images}/*.png"], f"file://{tmp_path}/out", PredictSettings()) == 2
    assert files(tmp_path / "out").items() <= whole.items()
    memory.pipe_file("/in/bad.png", b"no image")
    with pytest.raises(FullyConvError, match="1 of 5 images"):
        predict_on_cluster(model, ["memory://in"], "memory://out", PredictSettings())
    assert '"memory:///in/bad.png: expected an image' in memory.cat_file("/out/quarantine.csv").decode()
    memory.store.clear()


@pytest.mark.slow
def test_a_huge_image_in_bands_is_that_of_one_process(model, tmp_path, here, monkeypatch):
    monkeypatch.setattr("fullyconv.predict_files.LARGE", 2_000)
    for name in ("FREE_PIXELS", "WHOLE_PIXELS"):
        monkeypatch.setattr(f"fullyconv.predict.{name}", 1_000)
    pixels = np.random.default_rng(0).integers(0, 256, (1300, 70, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), compression="zlib", photometric="rgb")
    whole = alone(model, tmp_path / "a.tif", tmp_path / "one", confidence=True)
    monkeypatch.setattr("fullyconv.predict_cluster.LEAST_BYTES", 0)
    monkeypatch.setattr("fullyconv.predict_cluster.HUGE", 10_000)
    monkeypatch.setattr("fullyconv.bands.LEAST_HALOS", 0.4)
    settings = PredictSettings(confidence=True)
    here.order = lambda batches: batches[:1]  # of an earlier run with more workers
    with pytest.raises(FullyConvError):
        predict_on_cluster(model, [tmp_path / "a.tif"], tmp_path / "out", settings, workers=8)
    here.batches.clear()
    here.order = lambda batches: batches[::-1]
    assert predict_on_cluster(model, [tmp_path / "a.tif"], tmp_path / "out", settings, workers=2) == 1
    kinds = [item["kind"] for batch in here.batches for item in batch.items]
    assert kinds.count("band") >= 2
    assert kinds[-1] == "join"
    assert files(tmp_path / "out") == whole
    assert not (tmp_path / "out" / ".fullyconv" / "bands").exists()
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 1


def test_a_disk_that_takes_nothing_ends_the_job_and_the_command_goes_on_later(
    model, images, tmp_path, here, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "out")

    with monkeypatch.context() as patch:
        patch.setattr("fullyconv.predict_work.predict_files", full)
        with pytest.raises(FullyConvError, match=r"out: No space left on device \(when that is mended"):
            predict_on_cluster(model, [images], tmp_path / "out", PredictSettings())
    assert predict_on_cluster(model, [images], tmp_path / "out", PredictSettings()) == 4


def test_the_command_line_passes_on_what_it_is_given(model, images, tmp_path, here, monkeypatch):
    done = command_line.answer(
        monkeypatch, "predict", model, images, "-o", tmp_path / "out", "--cluster", "local", "--no-overlay"
    )
    assert done.returncode == 0, done.stderr
    assert f"4 masks in {tmp_path / 'out'}" in done.stderr
    assert "images/s" in done.stderr
    for words, message in (
        (["--coco"], "--coco is for one process (leave it out, or --cluster)"),
        (["--engine", "auto"], "--engine auto is for one process"),
    ):
        done = command_line.answer(monkeypatch, "predict", model, images, "-o", "x", "--cluster", "local", *words)
        assert (done.returncode, message in done.stderr) == (2, True)
    done = command_line.answer(monkeypatch, "predict", model, images, "-o", "x", "--workers", "2")
    assert "--workers is for --cluster" in done.stderr


# ---- Ray itself ----


def start(model, images, out, *words, **options):
    """The command in a process of its own, with a worker that needs a moment for each image."""
    command = [sys.executable, "-m", "fullyconv", "predict", model, images, "-o", out, "--cluster", "local"]
    return subprocess.Popen([*map(str, command), *words], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_ray_survives_kills_of_workers_and_of_the_driver(images, tmp_path):
    import psutil

    network = FCN.build(ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4)
    model = tmp_path / "m.safetensors"
    save_model(network, model)
    for number in range(60):
        shutil.copyfile(images / "0.png", images / f"copy{number}.png")
    whole = alone(model, images, tmp_path / "one")
    out = tmp_path / "out"
    with start(model, images, out) as driver:
        while not list(out.glob("*.png")):
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.05)
        started = psutil.Process(driver.pid).children(recursive=True)
        names = {process.pid: " ".join(process.cmdline()) for process in started}
        workers = [process for process in started if "PredictWorker" in names[process.pid]]
        assert len(workers) == 2
        public = [
            one
            for process in started
            for one in process.net_connections()
            if one.status == "LISTEN" and not one.laddr.ip.endswith("127.0.0.1")
        ]
        assert not public
        workers[0].kill()
        time.sleep(1)
        os.kill(driver.pid, signal.SIGKILL)
    # None outlives the driver but two agents of Ray, for a minute.
    left = psutil.wait_procs([process for process in started if "Agent" not in names[process.pid]], timeout=30)[1]
    assert left == []
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    with start(model, images, out) as driver:
        assert driver.wait() == 0, driver.stderr.read()
    assert files(out) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
