"""Folders of outputs: whole files, on a disk and at a URL, and nobody's replaced."""

import fsspec
import pytest

from fullyconv.errors import DataError, UsageError
from fullyconv.folders import LocalFolder, UrlFolder, file_stamp, file_system, is_url, local_file, open_folder


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """One folder of each kind."""
    if request.param == "disk":
        yield open_folder(tmp_path / "out")
        return
    yield open_folder(f"memory://{tmp_path.name}/out")
    fsspec.filesystem("memory").store.clear()


def published(folder, data, name):
    with folder.scratch() as scratch:
        (scratch / "file").write_bytes(data)
        folder.publish(scratch / "file", name)


def test_what_is_written_is_read_named_and_removed(folder):
    assert folder.read("a/b.json") is None
    assert folder.names() == []
    folder.write("a/b.json", b"1")
    folder.write("a/b.json", b"2")
    published(folder, b"3", "c.png")
    assert (folder.read("a/b.json"), folder.read("c.png")) == (b"2", b"3")
    assert folder.names("a") == ["a/b.json"]
    assert {"a/b.json", "c.png"} == set(folder.names())
    assert folder.exists("c.png")
    with folder.local("c.png") as path:
        assert path.read_bytes() == b"3"
    folder.remove("a")
    folder.remove("c.png")
    folder.remove("c.png")
    assert folder.names() == []


def test_a_name_is_given_once_and_again_for_the_same_bytes_only(folder):
    published(folder, b"mine", "x.png")
    published(folder, b"mine", "x.png")
    with pytest.raises(UsageError, match=r"x\.png is there already and is another file \(move it away"):
        published(folder, b"other", "x.png")
    assert folder.read("x.png") == b"mine"


def test_nothing_is_left_of_what_could_not_be_written(folder, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    if isinstance(folder, LocalFolder):
        monkeypatch.setattr("pathlib.Path.write_bytes", full)
    else:
        monkeypatch.setattr(folder._system, "mv", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("a.json", b"1")
    assert folder.names() == []


def test_a_disk_without_links_takes_files_too(tmp_path, monkeypatch):
    def no_links(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    folder = LocalFolder(tmp_path)
    published(folder, b"1", "x.png")
    published(folder, b"1", "x.png")
    with pytest.raises(UsageError, match="another file"):
        published(folder, b"2", "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"1"


def test_urls_are_told_from_paths(tmp_path):
    assert [is_url(text) for text in ("s3://a/b", "C:\\a", "C://a", "a/b", "memory://a")] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert isinstance(open_folder("memory://a"), UrlFolder)
    assert open_folder(f"file://{tmp_path}/a%20b").place == str(tmp_path / "a b")


def test_urls_that_cannot_be_opened_are_refused():
    with pytest.raises(UsageError, match="expected a URL of one store, got zip://"):
        file_system("zip://a.png::memory://b.zip")
    with pytest.raises(UsageError, match="nowhere://a cannot be opened"):
        file_system("nowhere://a")
    with (
        pytest.raises(DataError, match=r"memory://none\.png cannot be read: FileNotFoundError"),
        local_file("memory://none.png"),
    ):
        pass
    with pytest.raises(DataError, match=r"memory://none\.png cannot be read"):
        file_stamp("memory://none.png")


def test_a_file_at_a_url_is_here_for_as_long_as_it_is_needed():
    fsspec.filesystem("memory").pipe_file("/in/a.png", b"pixels")
    with local_file("memory://in/a.png") as path:
        assert path.read_bytes() == b"pixels"
        assert path.suffix == ".png"
    assert not path.exists()
    fsspec.filesystem("memory").store.clear()


def test_a_stamp_tells_a_file_from_a_later_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    first = file_stamp(tmp_path / "a.png")
    assert first == file_stamp(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"12")
    assert first != file_stamp(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"none\.png cannot be read: No such file"):
        file_stamp(tmp_path / "x" / "none.png")
