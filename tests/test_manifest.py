"""What of a job is done: exactly once, whatever dies."""

import csv
import json

import pytest

from fullyconv.errors import DataError, UsageError
from fullyconv.folders import open_folder
from fullyconv.manifest import BATCHES, Batch, Manifest, start_job, work_through

JOB = {"model": "1" * 64, "overlay": True, "chosen": {"memory": 5}}
ITEMS = [{"key": key, "input": f"/in/{key}"} for key in "abcd"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


@pytest.fixture
def folder(tmp_path):
    return open_folder(tmp_path / "out")


class Work:
    """Counts what is done; dies on some items, and fails on others."""

    def __init__(self, kills=(), fails=None):
        self.done, self.kills, self.fails = [], kills, fails or {}

    def __call__(self, item):
        if item["key"] in self.kills:
            raise Killed
        if item["key"] in self.fails:
            raise self.fails[item["key"]]
        self.done.append(item["key"])
        return {"outputs": {}}


def test_a_job_goes_on_as_it_began(folder):
    assert start_job(folder, JOB, ["a.png"]) == JOB
    assert start_job(folder, {**JOB, "chosen": {"memory": 9}}, ["a.png"])["chosen"] == {"memory": 5}
    with pytest.raises(
        UsageError, match=r"holds a job with overlay True, this one has False \(repeat the command"
    ):
        start_job(folder, {**JOB, "overlay": False}, [])
    with pytest.raises(UsageError, match=r"holds a job with model 1111111111111111\.\.\., this one has 2222"):
        start_job(folder, {**JOB, "model": "2" * 64}, [])


def test_a_folder_with_files_of_somebody_else_is_refused_where_names_would_collide(folder):
    folder.write("A.png", b"mine")
    with pytest.raises(UsageError, match=r"a\.png is there already \(choose another folder with -o\)"):
        start_job(folder, JOB, ["a.png"])
    assert folder.names() == ["A.png"]
    start_job(folder, JOB, ["b.png"])


def test_each_item_is_done_once_and_stands_in_the_manifest(folder):
    work = Work()
    assert work_through(folder, Batch("1", ITEMS), work) == dict.fromkeys("abcd", "done")
    assert work.done == list("abcd")
    assert work_through(folder, Batch("1", ITEMS), work) == dict.fromkeys("abcd", "done")
    assert work.done == list("abcd")
    manifest = Manifest(folder)
    assert sorted(manifest.records) == list("abcd")
    assert folder.names() == ["manifest.jsonl"]
    lines = [json.loads(line) for line in folder.read("manifest.jsonl").splitlines()]
    assert [line["key"] for line in lines] == list("abcd")
    assert lines[0]["input"] == "/in/a"


def test_a_worker_that_dies_has_its_item_done_again_and_no_other(folder):
    first, second = Work(kills="c"), Work()
    with pytest.raises(Killed):
        work_through(folder, Batch("1", ITEMS), first)
    work_through(folder, Batch("1", ITEMS), second)
    assert (first.done, second.done) == (["a", "b"], ["d", "c"])


def test_an_item_on_which_three_workers_die_is_left_alone_and_the_others_are_done(folder):
    works = [Work(kills="b") for _ in range(3)]
    for work in works:
        with pytest.raises(Killed):
            work_through(folder, Batch("1", ITEMS), work)
    assert [work.done for work in works] == [["a"], ["c", "d"], []]
    statuses = work_through(folder, Batch("1", ITEMS), Work(kills="b"))
    assert statuses == {"a": "done", "b": "quarantined", "c": "done", "d": "done"}
    assert Manifest(folder).records["b"]["status"] == "quarantined"
    rows = list(csv.DictReader(folder.read("quarantine.csv").decode().splitlines()))
    assert rows == [{"name": "b", "file": "/in/b", "reason": "3 workers died on it"}]


def test_deaths_on_several_items_are_counted_for_each(folder):
    works = [Work(kills=kills) for kills in "bdbb"]
    for work in works:
        with pytest.raises(Killed):
            work_through(folder, Batch("1", ITEMS), work)
    assert [work.done for work in works] == [["a"], ["c"], [], ["d"]]
    assert work_through(folder, Batch("1", ITEMS), Work()) == {
        "a": "done",
        "b": "quarantined",
        "c": "done",
        "d": "done",
    }


def test_what_is_refused_is_tried_once_and_says_why(folder):
    fails = {"a": DataError("a is broken", hint="mend it"), "c": ValueError("odd")}
    statuses = work_through(folder, Batch("1", ITEMS), Work(fails=fails))
    assert statuses == {"a": "quarantined", "b": "done", "c": "quarantined", "d": "done"}
    records = Manifest(folder).records
    assert records["a"]["reason"] == "a is broken (mend it)"
    assert records["c"]["reason"] == "ValueError: odd"


def test_a_disk_that_takes_nothing_ends_the_work(folder):
    with pytest.raises(OSError, match="No space"):
        work_through(folder, Batch("1", ITEMS), Work(fails={"b": OSError(28, "No space left on device")}))
    assert Manifest(folder).records["a"]["status"] == "done"


def test_what_was_done_stays_done_and_what_was_mended_leaves_the_quarantine(folder):
    work_through(folder, Batch("1", ITEMS[:2]), Work(fails={"a": DataError("broken")}))
    manifest = Manifest(folder)
    manifest.forget(["a"])
    work_through(folder, Batch("2", ITEMS[:2]), Work(fails={"b": DataError("another worker was late")}))
    manifest.merge()
    assert {key: record["status"] for key, record in manifest.records.items()} == {"a": "done", "b": "done"}
    assert folder.read("quarantine.csv") is None
    assert folder.names(BATCHES) == []
