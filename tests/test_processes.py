"""Several processes train what one does: started by torchrun, or, where one is enough, joined with nobody."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import answer
from PIL import Image
from safetensors.torch import load_file

from fullyconv import processes
from fullyconv.checkpoint import RunLock, load_newest, of_first
from fullyconv.config import PretrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.errors import UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.pretrain import pretrain
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

TOGETHER = {"steps": 0, "threads": 1, "scales": (1.0,), "precision": "float32"}
POINTS = {**TOGETHER, "epochs": 3, "pixels": 100, "batch": 3, "hidden": 8, "dropout": 0.0}
MAPS = {**POINTS, "train_on": "maps", "batch": 2}
SGD = {"optimizer": "sgd", "lr": 0.01, "tune_lr": 0.01, "encoder_lr": 0.01, "tune_epochs": 2}
RUNS = {
    "maps": MAPS,
    "more processes than crops": {**MAPS, "batch": 1, "epochs": 1},
    "every pixel": {**MAPS, "pixels": 0, "loss": "dice+cross_entropy"},
    "paper": {**TOGETHER, "epochs": 2, "pixels": 64, "batch": 3, "decoder": "fcn", "stride": 8, "epoch_steps": 4},
    "encoder": {
        **{**POINTS, **SGD, "epochs": 1, "train_encoder": "all", "crop": 64},
        **{"accumulate": 2, "clip": 1.0, "ema": 0.5},
    },
    "encoder from stride 16": {**POINTS, **SGD, "epochs": 1, "train_encoder": 16, "batch": 2},
}
RTOL, ATOL = 1e-3, 1e-5
"""Sums in another order round otherwise, and each step carries that on."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes") / "data"
    write_dataset(root, train=5, val=3, test=0, size=(64, 96), seed=3)
    return root


@pytest.fixture
def alone(monkeypatch):
    """The environment of a process that torchrun has started alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))


def torchrun(*words, folder, processes=("--standalone", "--nproc-per-node", "2")):
    """Start processes, two if nothing else is said; returns what torchrun runs as."""
    words = ["-m", "torch.distributed.run", *processes, *map(str, words)]
    environment = {**os.environ, "FULLYCONV_CACHE": str(folder / "cache")}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.Popen(
        [sys.executable, *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def train_by_two(data, folder, *runs):
    """Train runs by two processes; returns what each process says of the runs that end."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"data": str(data), "runs": runs}))
    started = torchrun(Path(__file__).with_name("two_processes.py"), plan, folder=folder)
    _, said = started.communicate(timeout=300)
    assert started.returncode == 0, said
    return [
        [json.loads((folder / f"{Path(run['out']).name}-{rank}.json").read_text()) for rank in (0, 1)]
        for run in runs
        if "interrupt_before" not in run
    ]


def assert_equal_but_for_rounding(ours, theirs):
    ours, theirs = load_file(ours), load_file(theirs)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        torch.testing.assert_close(
            values, theirs[name], rtol=RTOL, atol=ATOL, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_two_processes_train_what_one_does_and_share_the_cache(data, tmp_path):
    one = train(Dataset.open(data), tmp_path / "one", recipe(**POINTS), cache=FeatureCache(tmp_path / "alone"))
    run = {"out": str(tmp_path / "two"), "settings": POINTS, "cache": str(tmp_path / "shared")}
    ((first, second),) = train_by_two(data, tmp_path, run)
    assert first["counts"] == second["counts"] == json.loads(json.dumps(one.report.counts))
    assert first["report"] == second["report"] == one.report.to_json()
    assert_equal_but_for_rounding(tmp_path / "two/last.safetensors", one.run / "last.safetensors")
    # 5 images in two views, and 3 to validate on; the panel shows none that its process has not computed.
    assert (len(set(first["stored"])), len(set(second["stored"]))) == (5 + 2, 5 + 1)
    entries = {path.name for path in (tmp_path / "shared/features").rglob("*") if path.is_file()}
    assert set(first["stored"]) | set(second["stored"]) == entries
    assert entries == {path.name for path in (tmp_path / "alone/features").rglob("*") if path.is_file()}
    assert not set(first["stored"]) & set(second["stored"])


@pytest.mark.slow
def test_two_processes_train_what_one_does_in_every_way(data, tmp_path):
    runs = [
        {"out": str(tmp_path / f"two {name}"), "settings": settings, "cache": str(tmp_path / "shared")}
        for name, settings in RUNS.items()
    ]
    said = train_by_two(data, tmp_path, *runs)
    cache = FeatureCache(tmp_path / "alone")
    for (name, settings), (first, second) in zip(RUNS.items(), said, strict=True):
        one = train(Dataset.open(data), tmp_path / f"one {name}", recipe(**settings), cache=cache)
        assert first["report"] == second["report"] == one.report.to_json(), name
        assert_equal_but_for_rounding(tmp_path / f"two {name}/last.safetensors", one.run / "last.safetensors")


@pytest.mark.slow
def test_two_processes_solve_the_closed_form_to_the_bits_of_one(data, tmp_path):
    settings = {"threads": 1, "scales": (1.0,), "precision": "float32", "instant": True, "pixels": 100}
    train_by_two(data, tmp_path, {"out": str(tmp_path / "two"), "settings": settings})
    one = train(Dataset.open(data), tmp_path / "one", recipe(**settings), use_cache=False)
    for name in ("best.safetensors", "sums.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (one.run / name).read_bytes()


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_ends_in_the_bits_of_an_uninterrupted_one(data, tmp_path):
    settings = {**MAPS, "dropout": 0.5}
    whole, cut = {"out": str(tmp_path / "whole"), "settings": settings}, {"out": str(tmp_path / "cut")}
    interrupted, resumed = {"interrupt_before": 2}, {"resume": True}
    train_by_two(data, tmp_path, whole, {**whole, **cut, **interrupted}, {**whole, **cut, **resumed})
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_two_machines_need_no_folder_in_common(data, tmp_path, monkeypatch):
    settings = {**RUNS["encoder"], "accumulate": 1, "clip": 0.0, "ema": 0.0}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "scales"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nodes = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    machines = []
    for rank in (0, 1):
        folder = tmp_path / str(rank)
        shutil.copytree(data, folder / "data")
        start = [
            "--node-rank",
            str(rank),
            "-m",
            "fullyconv",
            "train",
            "data",
            "-o",
            "run",
            "--scales",
            "1",
            *words,
        ]
        monkeypatch.chdir(folder)
        machines.append(torchrun(*start, folder=folder, processes=("--nproc-per-node", "1", *nodes)))
    for started in machines:
        _, said = started.communicate(timeout=100)
        assert started.returncode == 0, said
    assert not (tmp_path / "1" / "run").exists()
    first, second = ({path.name for path in (tmp_path / name / "cache").rglob("*")} for name in "01")
    assert {len(name) for name in first & second} <= {2, len("features")}  # folders, no entries
    one = train(Dataset.open(data), tmp_path / "one", recipe(**settings), use_cache=False)
    assert_equal_but_for_rounding(tmp_path / "0/run/last.safetensors", one.run / "last.safetensors")


@pytest.mark.slow
def test_a_wrong_mask_ends_both_processes_with_the_message_and_the_code_of_one(tmp_path):
    write_dataset(tmp_path / "data", train=2, val=1, test=0, size=(64, 64), seed=2)
    wrong = tmp_path / "data/masks/train/0001.png"
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(wrong)
    words = "-m", "fullyconv", "train", tmp_path / "data", "-o", tmp_path / "run", "--threads", 1
    started = torchrun(*words, folder=tmp_path)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert [line for line in said.splitlines() if line.startswith("error: ") and "0001.png" in line]
    assert "exitcode  : 2" in said
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_is_killed_the_other_ends_and_the_run_can_be_resumed(rank, data, tmp_path):
    words = ["-m", "fullyconv", "train", data, "-o", tmp_path / "run", "--threads", 1, "--epochs", 3000]
    started = torchrun(*words, "--scales", 1, "--pixels", 64, "--patience", 0, folder=tmp_path)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run/metrics.csv").exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = {}
    for task in Path(f"/proc/{started.pid}/task").iterdir():
        for worker in map(int, (task / "children").read_text().split()):
            with contextlib.suppress(OSError, StopIteration):
                variables = Path(f"/proc/{worker}/environ").read_bytes().decode().split("\0")
                workers[int(next(v for v in variables if v.startswith("RANK="))[5:])] = worker
    os.kill(workers[rank], signal.SIGKILL)
    _, said = started.communicate(timeout=25)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers.values())
    with RunLock(tmp_path / "run"):
        assert load_newest(tmp_path / "run/checkpoint")["history"]
    assert "error: another process of this training has ended" in said


def test_without_torchrun_nothing_is_joined():
    values = torch.arange(3.0, requires_grad=True)
    with processes.joined(torch.device("cpu")):
        assert not processes.several()
        assert (processes.rank(), processes.count(), processes.is_first()) == (0, 1, True)
        assert processes.total(values) is values
        assert processes.joint(values) is values
        assert processes.gathered(values) is values
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.text_of_first("ä") == "ä"
        with processes.one_after_another():
            processes.wait()
    assert not torch.distributed.is_initialized()


def test_a_process_that_is_alone_gets_back_what_it_gives(alone):
    values = torch.arange(3.0, requires_grad=True)
    with processes.joined(torch.device("cpu")), processes.joined(torch.device("cpu")):
        assert processes.several()
        assert processes.total(values).tolist() == processes.gathered(values.detach()).tolist() == [0, 1, 2]
        processes.joint(values).square().sum().backward()
        assert values.grad.tolist() == [0, 2, 4]
        processes.add_gradients([values, torch.ones(1)])
        assert values.grad.tolist() == [0, 2, 4]
        assert processes.text_of_first("one\ntwo ä") == "one\ntwo ä"
        with processes.one_after_another():
            processes.wait()
        state = {"a": [torch.tensor([0.1, 2**-40]), {"b": 0.1}], 3: (torch.arange(2), None, "c")}
        again = of_first(state)
        assert torch.equal(again["a"][0], state["a"][0])
        assert again["a"][1] == {"b": 0.1}
        assert again[3][1:] == (None, "c")
        assert of_first(None) is None
    assert not processes.several()
    assert not torch.distributed.is_initialized()


def test_a_group_that_the_caller_has_opened_is_left_as_it_is(alone):
    torch.distributed.init_process_group("gloo")
    try:
        with processes.joined(torch.device("cpu")):
            assert processes.total(torch.ones(1)) == 1
        assert torch.distributed.is_initialized()
        assert not processes.several()
    finally:
        torch.distributed.destroy_process_group()


def test_several_processes_need_processors_or_a_gpu_each(alone, monkeypatch):
    with (
        pytest.raises(UsageError, match="need processors or GPUs, got mps"),
        processes.joined(torch.device("mps")),
    ):
        pass
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes on this machine"), processes.joined(torch.device("cuda")):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="got cuda:1 of 2"), processes.joined(torch.device("cuda:1")):
        pass


def test_a_process_with_other_settings_than_the_first_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "text_of_first", lambda text: "that of another run")
    with pytest.raises(UsageError, match="process 0 has other settings, samples or encoder weights"):
        train(Dataset.open(data), tmp_path / "run", recipe(**POINTS), use_cache=False)


def test_pretraining_is_for_one_process(alone, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="pretrain works in one process, torchrun has started 2"):
        pretrain([tmp_path], tmp_path / "run", PretrainConfig())
    assert not (tmp_path / "run").exists()


def test_the_run_folder_of_several_processes_has_to_be_named(alone, monkeypatch, data):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = answer(monkeypatch, "train", data)
    assert said.returncode == 2
    assert "a run whose folder is not named works in one process, torchrun has started 2 (give it" in said.stderr


def test_processes_on_a_machine_divide_its_threads(alone, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # by torchrun
        assert set_threads(None) == 4
        assert set_threads(3) == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # by the user: torch has read it when it was loaded
        assert set_threads(None) == 3
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert set_threads(None) == 1
    finally:
        torch.set_num_threads(before)
