"""The folder of a service: its own, and what killed services left is removed."""

import shutil
import tempfile

from fullyconv.serve.own_folder import own_folder


def test_what_a_killed_service_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = tmp_path / "fullyconv-serve-notes"
    mine.mkdir()
    with own_folder() as first:
        (first / "image").write_bytes(b"pixels")
        shutil.copytree(first, tmp_path / "fullyconv-serve-killed")  # nobody holds the lock of this one
        with own_folder() as second:
            assert first.is_dir()
            assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, mine.name}
            assert second.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [mine]
