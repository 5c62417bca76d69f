"""Archives from elsewhere: nothing leaves the folder, nothing is larger than it may be."""

import io
import tarfile
import zipfile

import miniatures
import pytest

from fullyconv import unpack as module
from fullyconv.errors import DataError
from fullyconv.progress import Silent
from fullyconv.unpack import unpack


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def tar_of(path, *members, mode="w:gz"):
    """A tar of (name, bytes or a tar type with the target of a link)."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def zip_of(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members:
            zipped.writestr(name, content)
    return path


def refusal(archive, tmp_path, **options):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        unpack(archive, folder, progress=Silent(), **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_what_is_packed_comes_out_the_same(name, tmp_path):
    tree, folder = tmp_path / "tree", tmp_path / "out"
    miniatures.ade20k(tree)
    folder.mkdir()
    miniatures.pack(tree, tmp_path / name, "ADE/")
    unpack(tmp_path / name, folder, progress=Silent())
    expected = {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    found = {path.relative_to(folder / "ADE"): path for path in (folder / "ADE").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == expected


def test_rights_in_the_archive_do_not_count(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("run")
        info.mode = 0o4777
        tar.addfile(info, io.BytesIO())
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a.tar", tmp_path / "out", progress=Silent())
    assert (tmp_path / "out" / "run").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\..\\evil", "C:evil"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_that_lead_out_are_refused(name, make, tmp_path):
    message = refusal(make(tmp_path / "a", ("good", b"1"), (name, b"2")), tmp_path)
    assert "expected names within it, got one that leads out: " in message


@pytest.mark.parametrize(
    "content",
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, ".."),
        (tarfile.LNKTYPE, "good"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
    ],
)
def test_links_and_devices_are_left_out(content, tmp_path):
    archive, folder = (
        tar_of(tmp_path / "a.tar", ("good", b"1"), ("bad", content), ("bad/x", b"2")),
        tmp_path / "out",
    )
    folder.mkdir()
    progress = Lines()
    unpack(archive, folder, progress=progress)
    assert progress.lines == ["a.tar: 1 links or devices are left out"]
    assert sorted(path.name for path in folder.iterdir()) == ["bad", "good"]
    assert not (folder / "bad").is_symlink()
    assert (folder / "bad" / "x").read_bytes() == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


def test_links_in_a_zip_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        info = zipfile.ZipInfo("bad")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a.zip", tmp_path / "out", progress=Silent())
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_of_a_name_that_is_there_twice_the_last_counts(make, tmp_path):
    (tmp_path / "out").mkdir()
    unpack(make(tmp_path / "a", ("x", b"1"), ("x", b"22")), tmp_path / "out", progress=Silent())
    assert (tmp_path / "out" / "x").read_bytes() == b"22"


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_bomb_is_refused_before_it_is_written(make, tmp_path):
    archive = make(tmp_path / "a", ("small", b"1"), ("zeros", bytes(3_000_000)))
    assert archive.stat().st_size < 10_000
    assert "unpacked it has more than 2.0 MB or 500000 files" in refusal(archive, tmp_path, largest=2_000_000)
    assert not (tmp_path / "out" / "zeros").exists()


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    archive = tar_of(tmp_path / "a", *[(f"{number}", b"") for number in range(4)])
    assert "or 3 files" in refusal(archive, tmp_path)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
@pytest.mark.parametrize("part", [0.1, 0.4, 0.7])
def test_half_an_archive_is_damaged(name, part, tmp_path):
    miniatures.ade20k(tmp_path / "tree")
    content = miniatures.pack(tmp_path / "tree", tmp_path / name)
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    (tmp_path / "tree").rename(tmp_path.parent / f"{tmp_path.name}-tree")
    assert "expected a whole tar or zip archive, got one that cannot be read" in refusal(tmp_path / name, tmp_path)


def test_a_zip_whose_bytes_were_changed_is_damaged(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("x", b"A" * 1000)
    archive.write_bytes(archive.read_bytes().replace(b"AAAA", b"AABA", 1))
    assert "Bad CRC-32" in refusal(archive, tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(2000)])
def test_what_is_no_archive_is_refused_or_empty(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    if content == bytes(2000):  # an empty tar
        (tmp_path / "out").mkdir()
        unpack(tmp_path / "a", tmp_path / "out", progress=Silent())
        assert not list((tmp_path / "out").iterdir())
    else:
        assert "expected a whole tar or zip archive" in refusal(tmp_path / "a", tmp_path)


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    def full(source, target, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space left") as caught:
        unpack(tar_of(tmp_path / "a", ("x", b"1")), tmp_path / "out", progress=Silent())
    assert caught.value.errno == 28
