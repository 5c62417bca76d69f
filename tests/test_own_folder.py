"""Temporary folders of ours, and what killed processes left of theirs."""

import shutil
import tempfile

from fullyconv.own_folder import own_folder


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = tmp_path / "ours-notes"
    mine.mkdir()
    with own_folder("ours-") as first:
        (first / "image").write_bytes(b"pixels")
        shutil.copytree(first, tmp_path / "ours-killed")  # nobody holds the lock of this one
        with own_folder("ours-") as second:
            assert first.is_dir()
            assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, mine.name}
            assert second.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [mine]
