"""Files are there whole or not at all, and nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fullyconv.atomic import atomic_folder, atomic_path, process_start, remove_stale_temporaries
from fullyconv.errors import UsageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, *steps, overwrite=True):
    """Write atomically, doing something more before the block ends."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(b"new")
        for step in steps:
            step()


def stop(failure):
    raise failure


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "mask.png"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["mask.png"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_no_temporary(tmp_path, failure):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    with pytest.raises(failure):
        write(path, lambda: stop(failure))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["mask.png"]


def test_a_disk_that_does_not_take_the_file_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["mask.png"]


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append("replace"), replace(path, to)))
    write(tmp_path / "mask.png")
    assert steps == ["fsync", "replace", "fsync"]


def test_a_file_system_that_cannot_flush_folders_is_good_enough(tmp_path, monkeypatch):
    opened = os.open

    def refuse_folders(path, flags, *rest, **named):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse_folders)
    write(tmp_path / "mask.png")
    assert (tmp_path / "mask.png").read_bytes() == b"new"


def test_an_existing_file_is_kept_where_asked(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"mask.png exists already \(choose another name"):
        write(path, overwrite=False)
    assert path.read_bytes() == b"old"


def test_a_file_that_appears_meanwhile_is_kept_where_asked(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(UsageError, match="exists already"):
        write(path, lambda: path.write_bytes(b"somebody else's"), overwrite=False)
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["mask.png"]


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    write(path)
    assert path.exists()


def test_temporaries_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    stale = tmp_path / f".{dead_pid()}-0123456789abcdef.tmp"
    live = tmp_path / f".{os.getpid()}-0123456789abcdef.tmp"
    foreign = tmp_path / ".somebody-elses.tmp"
    for path in (stale, live, foreign):
        path.touch()
    assert remove_stale_temporaries(tmp_path) == 1
    assert not stale.exists()
    assert live.exists()
    assert foreign.exists()


def test_a_process_has_a_start_only_while_it_lives():
    assert process_start(os.getpid()) is not None
    assert process_start(os.getpid()) == process_start(os.getpid())
    assert process_start(dead_pid()) is None
    assert process_start(10**18) is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_process_that_was_killed_but_not_yet_collected_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None
    child.stdin.close()
    child.wait()


# ---- folders ----


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a").mkdir()
        (temporary / "a" / "file").write_text("x")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a" / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_failing_block_leaves_no_folder(tmp_path):
    def write():
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_is_there_before_or_meanwhile_is_kept(tmp_path, before):
    if before:
        (tmp_path / "new").mkdir()

    def write():
        with atomic_folder(tmp_path / "new"):
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "mine").touch()

    with pytest.raises(UsageError, match="new exists already"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_folders_of_dead_processes_are_removed(tmp_path):
    dead = tmp_path / f".{2**22 + 1}-{'0' * 16}.tmp"
    dead.mkdir()
    (dead / "file").touch()
    assert remove_stale_temporaries(tmp_path) == 1
    assert not [*tmp_path.iterdir()]
