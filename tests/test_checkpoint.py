"""Whatever happens to a training, its newest whole checkpoint comes back in every bit; one run a folder."""

import json
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullyconv.checkpoint import RunLock, load_newest, save_checkpoint
from fullyconv.errors import ModelFileError, UsageError

GOLDEN = Path(__file__).parent / "golden"
STATES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)

# Forks children that save without a pause and kills each after a moment, so that the import of torch is paid once.
KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fullyconv.checkpoint import load_newest, save_checkpoint

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
moments = random.Random(0)
epoch = 0
for kill in range(kills):
    child = os.fork()
    if child == 0:
        while True:
            epoch += 1
            save_checkpoint(folder, {"epoch": epoch, "weights": torch.full((100_000,), epoch)}, epoch=epoch)
    time.sleep(moments.uniform(0.01, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    problems = []
    state = load_newest(folder, report=problems.append)
    assert not problems, problems
    if state is not None:
        assert (state["weights"] == state["epoch"]).all()
        assert state["epoch"] >= epoch
        epoch = state["epoch"]
save_checkpoint(folder, {}, epoch=epoch + 1)
print(epoch, *sorted(path.name for path in folder.iterdir()))
"""


def trained(steps):
    """A small network and its optimiser after some steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    train(network, optimizer, range(steps))
    return network, optimizer


def train(network, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        network(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_training_that_goes_on_from_a_checkpoint_ends_in_the_same_bits(tmp_path):
    network, optimizer = trained(3)
    save_checkpoint(tmp_path, {"network": network.state_dict(), "optimizer": optimizer.state_dict()}, epoch=3)
    train(network, optimizer, range(3, 6))

    resumed, its_optimizer = trained(0)
    state = load_newest(tmp_path)
    resumed.load_state_dict(state["network"])
    its_optimizer.load_state_dict(state["optimizer"])
    train(resumed, its_optimizer, range(3, 6))
    for name, tensor in network.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@settings(max_examples=25)
@given(value=STATES)
def test_every_nested_state_comes_back_with_its_types(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp() / "states"
    save_checkpoint(folder, {"value": value}, epoch=1)
    assert repr(load_newest(folder)) == repr({"value": value})


def test_floats_come_back_exactly_and_infinities_too(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan]
    save_checkpoint(tmp_path, {"values": values}, epoch=1)
    assert repr(load_newest(tmp_path)["values"]) == repr(values)


def test_tensors_come_back_with_dtype_and_shape(tmp_path):
    tensors = [torch.tensor(3.5), torch.arange(4), torch.get_rng_state(), torch.ones(2, 3).bfloat16()[:, 1:]]
    save_checkpoint(tmp_path, {"tensors": tensors}, epoch=1)
    for found, tensor in zip(load_newest(tmp_path)["tensors"], tensors, strict=True):
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_tensors_whose_places_read_alike_are_kept_apart(tmp_path):
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    save_checkpoint(tmp_path, {"a": {"b": one}, "a.b": two, "": {"a.b": three}}, epoch=1)
    state = load_newest(tmp_path)
    assert (state["a"]["b"], state["a.b"], state[""]["a.b"]) == (1, 2, 3)


@pytest.mark.parametrize("value", [object(), {1.5: 0}, {True: 0}, {(1, 2): 0}, {1, 2}, b"bytes", 1j])
def test_what_a_checkpoint_cannot_hold_is_refused_by_place(tmp_path, value):
    with pytest.raises(ModelFileError, match=r"a checkpoint cannot hold the .* at optimizer\.0"):
        save_checkpoint(tmp_path, {"optimizer": [value]}, epoch=1)
    assert not names(tmp_path)


def test_the_newest_two_are_kept(tmp_path):
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, {"epoch": epoch}, epoch=epoch)
    assert names(tmp_path) == ["epoch-0003.safetensors", "epoch-0004.safetensors"]
    assert load_newest(tmp_path) == {"epoch": 4}


def test_checkpoints_beyond_9999_epochs_are_still_in_order(tmp_path):
    for epoch in (9999, 10_000, 10_001):
        save_checkpoint(tmp_path, {"epoch": epoch}, epoch=epoch)
    assert names(tmp_path) == ["epoch-10000.safetensors", "epoch-10001.safetensors"]
    assert load_newest(tmp_path) == {"epoch": 10_001}


def test_a_run_that_went_back_keeps_a_good_checkpoint_beside_the_newest(tmp_path):
    for epoch in (7, 8):
        save_checkpoint(tmp_path, {"epoch": epoch}, epoch=epoch)
    save_checkpoint(tmp_path, {"epoch": 7}, epoch=7)
    assert names(tmp_path) == ["epoch-0007.safetensors"]
    save_checkpoint(tmp_path, {"epoch": 8}, epoch=8)
    assert names(tmp_path) == ["epoch-0007.safetensors", "epoch-0008.safetensors"]


def test_foreign_files_and_temporaries_of_the_dead_are_no_checkpoints(tmp_path):
    save_checkpoint(tmp_path, {"epoch": 1}, epoch=1)
    (tmp_path / "epoch-0009.safetensors.bak").touch()
    (tmp_path / f".{dead_pid()}-0123456789abcdef.tmp").touch()
    assert load_newest(tmp_path) == {"epoch": 1}
    save_checkpoint(tmp_path, {"epoch": 2}, epoch=2)
    assert names(tmp_path) == ["epoch-0001.safetensors", "epoch-0002.safetensors", "epoch-0009.safetensors.bak"]


def test_without_checkpoints_there_is_no_state(tmp_path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "none") is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path):
    for epoch in (1, 2):
        path = save_checkpoint(tmp_path, {"epoch": epoch, "weights": torch.ones(9)}, epoch=epoch)
    path.write_bytes(b"")
    said = []
    assert load_newest(tmp_path, report=said.append)["epoch"] == 1
    assert len(said) == 1
    assert "epoch-0002.safetensors is not a whole safetensors file" in said[0]
    assert "going back to the checkpoint before it" in said[0]


def test_every_random_damage_to_the_newest_checkpoint_is_noticed(tmp_path):
    for epoch in (1, 2):
        path = save_checkpoint(tmp_path, {"epoch": epoch, "weights": torch.ones(50)}, epoch=epoch)
    data, draw = path.read_bytes(), random.Random(0)
    for trial in range(200):
        if trial % 2:
            path.write_bytes(data[: draw.randrange(len(data))])
        else:
            path.write_bytes(data)
            flip(path, draw.randrange(8 * len(data)))
        said = []
        assert load_newest(tmp_path, report=said.append)["epoch"] == 1
        assert len(said) == 1


def test_where_no_checkpoint_is_whole_the_run_does_not_start_anew_silently(tmp_path):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, {}, epoch=epoch).write_bytes(b"PK\3\4 no")
    with pytest.raises(
        ModelFileError, match=r"no checkpoint in .* can be used: .*epoch-0002.* \(start a new run\)"
    ):
        load_newest(tmp_path)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, {}, epoch=3)
    path.rename(tmp_path / "epoch-0009.safetensors")
    with pytest.raises(ModelFileError, match="epoch-0009.safetensors holds epoch 3, not 9: it was renamed"):  # noqa: RUF043
        load_newest(tmp_path)


def test_a_pickle_as_checkpoint_is_refused_and_not_run(tmp_path):
    torch.save({"decoder": {}}, tmp_path / "epoch-0001.safetensors")
    with pytest.raises(ModelFileError, match="is a zip file, such as torch.save writes"):  # noqa: RUF043
        load_newest(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_that_are_there(tmp_path, monkeypatch):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, {"epoch": epoch}, epoch=epoch)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="epoch-0003.safetensors cannot be written: No space left"):  # noqa: RUF043
        save_checkpoint(tmp_path, {"epoch": 3}, epoch=3)
    assert names(tmp_path) == ["epoch-0001.safetensors", "epoch-0002.safetensors"]


def test_a_checkpoint_of_format_version_1_is_read(tmp_path):
    (tmp_path / "epoch-0003.safetensors").write_bytes((GOLDEN / "checkpoint-1.safetensors").read_bytes())
    state = load_newest(tmp_path)
    assert state["history"] == [{"loss": 0.1, "mean_iou": None}]
    assert state["optimizer"]["param_groups"] == [{"lr": 0.005, "betas": (0.9, 0.999), "params": [0, 1]}]
    assert torch.equal(state["optimizer"]["state"][0]["step"], torch.tensor(3.0))
    assert torch.equal(state["decoder"]["score.weight"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_any_moment_leaves_a_whole_checkpoint_and_nothing_else(tmp_path):
    command = [sys.executable, "-W", "error", "-c", KILL_LOOP, str(tmp_path), "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    epoch, *left = done.stdout.split()
    assert int(epoch) > 0
    assert left == [f"epoch-{int(epoch) + i:04d}.safetensors" for i in (0, 1)]


def test_a_lock_names_its_process_while_it_is_held(tmp_path):
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not names(tmp_path)


def test_a_lock_is_released_when_training_fails(tmp_path):
    with pytest.raises(ValueError, match="diverged"), RunLock(tmp_path):
        raise ValueError("diverged")
    assert not names(tmp_path)


def test_a_second_training_is_refused_with_the_process_of_the_first(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(UsageError, match=rf"is held by process {os.getpid()}: another process .*with -o"):
            RunLock(tmp_path).__enter__()
        assert names(tmp_path) == [".lock"]


def test_a_training_in_another_process_is_refused(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        owner = {"host": socket.gethostname(), "pid": other.pid, "start": ""}
        (tmp_path / ".lock").write_text(json.dumps(owner))
        with pytest.raises(UsageError, match=f"is held by process {other.pid}"):
            RunLock(tmp_path).__enter__()
    finally:
        other.communicate(b"\n")
    with RunLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_lock_on_another_machine_is_not_taken_over(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": dead_pid(), "start": "1"}))
    with pytest.raises(UsageError, match=r"is held by process \d+ on elsewhere \(if nothing works there any more"):
        RunLock(tmp_path).__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_a_lock_of_an_earlier_process_with_the_same_number_is_taken_over(tmp_path):
    earlier = {"host": socket.gethostname(), "pid": os.getpid(), "start": "1"}
    (tmp_path / ".lock").write_text(json.dumps(earlier))
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["start"] != "1"


@pytest.mark.parametrize("text", ["", "half {", "[]", "{}", '{"host": 1, "pid": "x", "start": ""}', "\0\xff"])
def test_a_lock_that_was_cut_short_is_taken_over(tmp_path, text):
    (tmp_path / ".lock").write_bytes(text.encode("latin-1"))
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not names(tmp_path)


def test_a_stale_lock_is_never_taken_from_one_who_was_faster(tmp_path):
    stale = json.dumps({"host": socket.gethostname(), "pid": dead_pid(), "start": "1"})
    with RunLock(tmp_path):
        RunLock(tmp_path)._set_aside(stale)
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_the_lock_removes_temporaries_of_the_killed_run(tmp_path):
    (tmp_path / f".{dead_pid()}-0123456789abcdef.tmp").touch()
    with RunLock(tmp_path):
        assert names(tmp_path) == [".lock"]
