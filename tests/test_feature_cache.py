"""The feature cache: what comes back is what was stored, or nothing."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fullyconv import feature_cache
from fullyconv.feature_cache import FeatureCache, cache_folder, entry_key, to_half

LIMIT = 100_000
DiskUsage = namedtuple("DiskUsage", "total used free")


def tensors(seed=0, cells=40):
    """An entry as there are: maps in half precision, one that would overflow, class indices."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "0": torch.randn(1, 3, cells, 5, generator=draw).half(),
        "1": torch.randn(1, 2, 2, 2, generator=draw) * 1e6,
        "targets": torch.randint(0, 255, (7,), generator=draw).to(torch.uint8),
    }


def key_of(seed):
    return entry_key({"seed": seed})


def same(first, second):
    """Bit for bit, in the same order of values in memory."""
    return first.keys() == second.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)
        for a, b in ((first[name], second[name]) for name in first)
    )


def a_run(folder, limit=LIMIT):
    return FeatureCache(folder, limit)


@pytest.fixture
def stored(tmp_path):
    """The path of one entry, stored by an earlier run."""
    cache = a_run(tmp_path)
    cache.store(key_of(0), tensors())
    return cache._path(key_of(0))


def entry_bytes(folder):
    a_run(folder).store(key_of(0), tensors())
    return a_run(folder).info().bytes


def use_at(cache, seed, time):
    """Set when an entry was last used."""
    os.utime(cache._path(key_of(seed)), (time, time))


def present(cache, count):
    return [seed for seed in range(count) if cache._path(key_of(seed)).exists()]


# What is stored and what comes back


def test_what_is_stored_comes_back_bit_for_bit_in_this_run_and_the_next(tmp_path):
    first = a_run(tmp_path)
    first.store(key_of(0), tensors())
    assert same(first.load(key_of(0)), tensors())
    assert same(a_run(tmp_path).load(key_of(0)), tensors())


def test_a_key_that_was_never_stored_is_missing(tmp_path):
    cache = a_run(tmp_path)
    assert cache.load(key_of(0)) is None
    assert (cache.damaged, cache.failure) == (0, None)


def test_empty_and_oddly_laid_out_tensors_come_back_in_the_usual_layout(tmp_path):
    maps = torch.randn(1, 4, 3, 2).contiguous(memory_format=torch.channels_last)
    cache = a_run(tmp_path)
    cache.store(key_of(0), {"0": torch.zeros(0, 4).half(), "1": maps})
    found = cache.load(key_of(0))
    assert same(found, {"0": torch.zeros(0, 4).half(), "1": maps.contiguous()})


def test_an_entry_can_be_stored_again(stored, tmp_path):
    cache = a_run(tmp_path)
    cache.store(key_of(0), tensors(1))
    assert same(cache.load(key_of(0)), tensors(1))
    assert cache.info().entries == 1


def test_what_was_loaded_does_not_change_with_the_file(stored, tmp_path):
    loaded = a_run(tmp_path).load(key_of(0))
    size = stored.stat().st_size
    with stored.open("r+b") as file:
        file.write(bytes(size))
    assert same(loaded, tensors())


def test_nothing_but_the_entry_is_left_in_the_folder(stored):
    assert [path.name for path in stored.parent.iterdir()] == [key_of(0)]


# Damage


class Canary:
    """A pickle that tells when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


DAMAGE = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut in the digest": lambda data: data[:20],
    "cut in the header": lambda data: data[:60],
    "cut at the end": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "bare safetensors": lambda data: data[32:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_removed_counted_and_replaced(stored, tmp_path, damage):
    stored.write_bytes(DAMAGE[damage](stored.read_bytes()))
    cache = a_run(tmp_path)
    assert cache.load(key_of(0)) is None
    assert not stored.exists()
    assert (cache.damaged, cache.failure) == (1, None)
    cache.store(key_of(0), tensors())
    assert same(cache.load(key_of(0)), tensors())


def test_every_flipped_bit_is_found(stored, tmp_path):
    data = stored.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        stored.write_bytes(flipped)
        assert a_run(tmp_path).load(key_of(0)) is None, position


def test_an_entry_under_anothers_name_is_found(stored, tmp_path):
    cache = a_run(tmp_path)
    cache.store(key_of(1), tensors(1))
    cache._path(key_of(1)).write_bytes(stored.read_bytes())
    assert a_run(tmp_path).load(key_of(1)) is None
    assert same(a_run(tmp_path).load(key_of(0)), tensors())


@pytest.mark.parametrize("protocol", [0, 5, "torch.save"])
def test_a_planted_pickle_is_never_run(stored, tmp_path, protocol):
    canary = Canary(tmp_path / "ran")
    if protocol == "torch.save":
        torch.save(canary, stored)
    else:
        stored.write_bytes(pickle.dumps(canary, protocol))
    assert a_run(tmp_path).load(key_of(0)) is None
    assert not canary.path.exists()
    assert not stored.exists()


def test_digests_are_checked_at_the_first_read_of_a_run_and_only_then(stored, tmp_path, monkeypatch):
    checked = []
    digest = feature_cache._digest
    monkeypatch.setattr(feature_cache, "_digest", lambda key, data: checked.append(key) or digest(key, data))
    cache = a_run(tmp_path)
    for _ in range(3):
        assert same(cache.load(key_of(0)), tensors())
    assert checked == [key_of(0)]


def test_what_this_run_stored_is_checked_when_it_is_first_read(tmp_path):
    cache = a_run(tmp_path)
    cache.store(key_of(0), tensors())
    path = cache._path(key_of(0))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert cache.load(key_of(0)) is None


def test_an_entry_that_went_and_came_back_is_checked_again(stored, tmp_path):
    cache = a_run(tmp_path)
    assert cache.load(key_of(0)) is not None
    data = stored.read_bytes()
    stored.unlink()
    assert cache.load(key_of(0)) is None
    stored.write_bytes(data[:-1] + b"!")
    assert cache.load(key_of(0)) is None
    assert cache.damaged == 1


def test_an_entry_cut_off_after_it_was_checked_is_not_used_either(stored, tmp_path):
    cache = a_run(tmp_path)
    cache.load(key_of(0))
    stored.write_bytes(stored.read_bytes()[:-1])
    assert cache.load(key_of(0)) is None


# The limit


def test_the_least_recently_used_go_first(tmp_path):
    size = entry_bytes(tmp_path)
    earlier = a_run(tmp_path)
    for seed, time in ((0, 400), (1, 100), (2, 300), (3, 200)):
        earlier.store(key_of(seed), tensors(seed))
        use_at(earlier, seed, time)
    assert a_run(tmp_path).load(key_of(1)) is not None  # Used now: no longer the oldest.
    cache = a_run(tmp_path, limit=4 * size + size // 2)
    cache.store(key_of(4), tensors(4))
    assert present(cache, 5) == [0, 1, 2, 4]
    cache.store(key_of(5), tensors(5))
    assert present(cache, 6) == [0, 1, 4, 5]


def test_the_limit_is_kept_whatever_is_stored(tmp_path):
    limit = 5 * entry_bytes(tmp_path)
    for run in range(4):
        cache = a_run(tmp_path, limit)
        for seed in range(run, run + 4):
            cache.store(key_of(seed), tensors(seed, cells=20 + 5 * seed))
            assert a_run(tmp_path).info().bytes <= limit
        assert cache.failure is None


def test_a_run_never_removes_its_own_entries_but_stops_and_says_why(tmp_path):
    cache = a_run(tmp_path, limit=3 * entry_bytes(tmp_path))
    for seed in range(5):
        cache.store(key_of(seed), tensors(seed))
    assert cache.failure == "the features of this run alone would pass its limit of 0.0 GB"
    assert present(cache, 5) == [0, 1, 2]
    assert [cache.load(key_of(seed)) is None for seed in range(5)] == [False, False, False, True, True]


def test_entries_that_this_run_read_are_its_own(tmp_path):
    size = entry_bytes(tmp_path)
    cache = a_run(tmp_path, limit=2 * size)
    assert cache.load(key_of(0)) is not None
    for seed in (1, 2):
        cache.store(key_of(seed), tensors(seed))
    assert present(cache, 3) == [0, 1]


def test_an_entry_larger_than_the_limit_costs_others_nothing(stored, tmp_path):
    cache = a_run(tmp_path, limit=stored.stat().st_size + 100)
    cache.store(key_of(1), tensors(1, cells=4000))
    assert cache.failure is not None
    assert stored.exists()


def test_entries_that_cannot_be_removed_count(stored, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "The process cannot access the file")

    cache = a_run(tmp_path, limit=stored.stat().st_size + 100)
    monkeypatch.setattr(Path, "unlink", refuse)
    cache.store(key_of(1), tensors(1))
    assert cache.failure is not None
    assert a_run(tmp_path).info().entries == 1


def test_what_other_runs_store_meanwhile_is_counted_sooner_or_later(tmp_path):
    size = entry_bytes(tmp_path)
    limit = 20 * size
    first, second = a_run(tmp_path, limit), a_run(tmp_path, limit)
    for seed in range(1, 60, 2):
        first.store(key_of(seed), tensors(seed))
        second.store(key_of(seed + 1), tensors(seed + 1))
        assert first.info().bytes <= limit + 2 * size
    assert first.info().bytes > limit - 2 * size


@pytest.mark.parametrize(("free", "limit"), [(10**12, 20 * 10**9), (10**9, None), (0, None)])
def test_the_limit_is_20_gb_or_half_of_the_disk_without_the_cache(stored, tmp_path, monkeypatch, free, limit):
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: DiskUsage(0, 0, free))
    taken = stored.stat().st_size
    assert FeatureCache(tmp_path).limit == (limit or (free + taken) // 2)


def test_a_disk_that_does_not_say_what_is_free_is_trusted(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(feature_cache.shutil, "disk_usage", refuse)
    assert FeatureCache(tmp_path / "new").limit == 20 * 10**9


# Folders that do not take entries


def test_a_folder_that_cannot_be_made_switches_the_cache_off(tmp_path):
    (tmp_path / "file").touch()
    cache = a_run(tmp_path / "file")
    cache.store(key_of(0), tensors())
    assert cache.failure == f"{tmp_path}/file/features cannot be written: Not a directory"
    assert cache.load(key_of(0)) is None
    cache.store(key_of(0), tensors())


@pytest.mark.parametrize(("code", "reason"), [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_disk_that_takes_nothing_switches_the_cache_off(tmp_path, monkeypatch, code, reason):
    def refuse(path, data):
        raise OSError(code, reason)

    cache = a_run(tmp_path)
    cache.store(key_of(0), tensors())
    monkeypatch.setattr(Path, "write_bytes", refuse)
    cache.store(key_of(1), tensors(1))
    assert cache.failure == f"{tmp_path}/features cannot be written: {reason}"
    assert same(cache.load(key_of(0)), tensors())
    assert len(list(cache.folder.glob("*/*"))) == len(list(cache.folder.glob("*/.*"))) + 1 == 1


def test_entries_that_may_be_read_but_not_touched_are_read(stored, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    cache = a_run(tmp_path)
    assert same(cache.load(key_of(0)), tensors())
    assert (cache.damaged, stored.exists()) == (0, True)


def test_an_entry_that_may_not_be_read_is_missing_and_stays(stored, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    cache = a_run(tmp_path)
    assert cache.load(key_of(0)) is None
    assert (cache.damaged, stored.exists()) == (0, True)


# Threads and processes


def test_threads_may_store_and_load_at_once(tmp_path):
    cache = a_run(tmp_path, limit=10**9)
    start = threading.Barrier(8)

    def work(worker):
        start.wait()
        for seed in range(20):
            cache.store(key_of(seed), tensors(seed))
            found = cache.load(key_of((7 * seed + worker) % 20))
            assert found is None or same(found, tensors((7 * seed + worker) % 20))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (cache.damaged, cache.failure) == (0, None)
    assert cache.info().entries == 20


def test_threads_together_keep_the_limit(tmp_path):
    size = entry_bytes(tmp_path)
    cache = a_run(tmp_path, limit=10 * size)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: cache.store(key_of(seed), tensors(seed)), range(1, 41)))
    assert cache.failure is not None
    assert a_run(tmp_path).info().bytes <= 10 * size
    assert len(present(cache, 41)) == 10


WRITER = """
import sys
from pathlib import Path
import torch
from fullyconv.feature_cache import FeatureCache, entry_key

print("ready", flush=True)
for turn in range(int(sys.argv[2])):
    cache = FeatureCache(Path(sys.argv[1]), 250_000)
    for seed in range(20):
        found = cache.load(entry_key({"seed": seed}))
        assert found is None or (found["0"] == seed).all()
        if found is None:
            cache.store(entry_key({"seed": seed}), {"0": torch.full((10_000,), seed, dtype=torch.int16)})
    assert cache.damaged == 0, cache.damaged
"""


def writer(folder, turns):
    command = [sys.executable, "-c", WRITER, str(folder), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_processes_share_a_cache_while_one_of_them_is_killed(tmp_path):
    first, second = writer(tmp_path, 2), writer(tmp_path, 10**6)
    for process in (first, second):
        assert process.stdout.readline() == b"ready\n"
    assert first.wait(timeout=60) == 0, first.stderr.read()
    second.send_signal(signal.SIGKILL)
    assert second.wait(timeout=60) == -signal.SIGKILL, second.stderr.read()
    cache = FeatureCache(tmp_path, 10**9)
    found = [(seed, cache.load(key_of(seed))) for seed in range(20)]
    assert all(entry is None or bool((entry["0"] == seed).all()) for seed, entry in found)
    assert (cache.damaged, 0 < cache.info().bytes < 300_000) == (0, True)
    for process in (first, second):
        process.stdout.close()
        process.stderr.close()


def test_what_killed_processes_left_goes_when_it_is_old(stored, tmp_path):
    old, young = (stored.parent / f".{number}-{number:016x}.tmp" for number in (1, 2))
    for path in (old, young):
        path.write_bytes(bytes(1000))
    os.utime(old, (1, 1))
    cache = a_run(tmp_path)
    assert cache.info_bytes() == stored.stat().st_size
    assert (old.exists(), young.exists()) == (False, True)
    assert cache.info().entries == 1


# Looking and clearing


def test_info_counts_what_is_there(stored, tmp_path):
    info = a_run(tmp_path).info()
    assert (info.folder, info.entries, info.bytes) == (tmp_path / "features", 1, stored.stat().st_size)
    assert info.limit == LIMIT


def test_a_cache_that_was_never_used_is_empty(tmp_path):
    info = a_run(tmp_path / "missing").info()
    assert (info.entries, info.bytes) == (0, 0)
    assert not (tmp_path / "missing").exists()


def test_clearing_removes_all_entries_and_says_what_there_was(stored, tmp_path):
    cache = a_run(tmp_path)
    before = cache.info()
    assert cache.clear() == before
    assert (cache.info().entries, cache.info_bytes()) == (0, 0)
    assert cache.load(key_of(0)) is None
    cache.store(key_of(0), tensors())
    assert cache.info() == before


def test_an_entry_that_appears_after_clearing_is_checked(stored, tmp_path):
    cache, data = a_run(tmp_path), stored.read_bytes()
    cache.load(key_of(0))
    cache.clear()
    stored.write_bytes(data[:-1] + b"!")
    assert cache.load(key_of(0)) is None


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"FULLYCONV_CACHE": "/scratch"}, "/scratch"),
        ("linux", {"XDG_CACHE_HOME": "/home/me/caches"}, "/home/me/caches/fullyconv"),
        ("linux", {"XDG_CACHE_HOME": ""}, "HOME/.cache/fullyconv"),
        ("darwin", {}, "HOME/Library/Caches/fullyconv"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/fullyconv/cache"),
        ("win32", {"FULLYCONV_CACHE": "/scratch"}, "/scratch"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, platform, environment, expected):
    for name in ("FULLYCONV_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path(expected.replace("HOME", str(Path.home())))


# Keys and precision


def test_keys_depend_on_names_and_values_and_not_on_their_order():
    assert entry_key({"a": 1, "b": [2, None]}) == entry_key({"b": [2, None], "a": 1})
    keys = {entry_key(parts) for parts in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1}, {"a": [1]})}
    assert len(keys) == 6


def test_keys_are_the_same_on_every_machine():
    expected = "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310"
    assert entry_key({"a": 1}) == expected


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_maps_are_kept_in_half_precision(precision):
    maps = torch.tensor([0.1, -60000.0, 1e-9, 3.0]).to(precision)
    kept = to_half(maps)
    expected = torch.tensor([float(value) for value in maps]).half()
    assert torch.equal(kept, expected)
    assert kept.dtype == torch.float16


@pytest.mark.parametrize("value", [65520.0, -1e30, float("inf")])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_maps_that_half_precision_would_make_infinite_are_kept_in_float32(precision, value):
    maps = torch.tensor([0.1, value]).to(precision)
    kept = to_half(maps)
    assert kept.dtype == torch.float32
    assert torch.equal(kept, maps.float())
