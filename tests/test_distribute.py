"""Batches of work for the workers of a cluster."""

import json
import socket
import sys
import tempfile
from dataclasses import asdict

import pytest

from fullyconv.distribute import LARGEST_BATCH, answered, batches_of, opened_cluster, statuses_of
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.manifest import Batch
from fullyconv.progress import Silent


@pytest.mark.parametrize(("count", "workers", "size"), [(3, 2, 1), (2000, 2, 20), (10**5, 4, LARGEST_BATCH)])
def test_every_item_is_in_one_batch_and_the_work_can_be_shared(count, workers, size):
    items = [{"key": str(number)} for number in range(count)]
    batches = batches_of(items, workers, lambda item: False)
    assert [item for batch in batches for item in batch.items] == items
    assert len(batches[0].items) == size
    assert len({batch.id for batch in batches}) == len(batches)


def test_what_takes_long_comes_first_and_alone():
    items = [{"key": str(number)} for number in range(1000)]
    batches = batches_of(items, 1, lambda item: item["key"] in ("7", "900"))
    assert [[item["key"] for item in batch.items] for batch in batches[:3]] == [
        ["7"],
        ["900"],
        [str(number) for number in range(21) if number != 7],
    ]


@pytest.fixture
def no_ray(monkeypatch):
    """Ray is not installed."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "0")


def test_without_ray_it_is_named(no_ray):
    with (
        pytest.raises(UsageError, match=r'needs Ray.*pip install "fullyconv\[ray\]"'),
        opened_cluster("local", Silent()),
    ):
        pass


def test_what_a_killed_driver_has_left_is_removed(no_ray, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, file in (("fc-left", "lock-of-fullyconv"), ("fc-photos", "a.jpg")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    with pytest.raises(UsageError), opened_cluster("local", Silent()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["fc-photos"]


@pytest.mark.parametrize("found", [{"statuses": {"a": "done"}}, {"error": "the disk is full"}])
def test_what_workers_found_comes_back(found):
    batch = Batch("1", [{"key": "a"}])
    seen = []
    rows = {"batch": [json.dumps(asdict(batch))]}
    (answer,) = answered(rows, lambda batch: seen.append(batch) or found)["found"]
    assert seen == [batch]
    if "statuses" in found:
        assert statuses_of(answer) == {"a": "done"}
        return
    with pytest.raises(FullyConvError, match="the disk is full"):
        statuses_of(answer)


def test_a_cluster_that_does_not_answer_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(UsageError, match=rf"no Ray answers at 127\.0\.0\.1:{port}: .*refused"),
        opened_cluster(f"127.0.0.1:{port}", Silent()),
    ):
        pass
