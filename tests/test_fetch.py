"""Published data sets from a server on this machine: miniatures of exactly the same inner layout."""

import dataclasses
import hashlib
import shutil
import sys

import command_line
import miniatures
import numpy as np
import pytest
from PIL import Image
from weights_server import Fault, serving

from fullyconv import download as download_module
from fullyconv import fetch as module
from fullyconv import published
from fullyconv.check import check_dataset
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, DownloadError, UsageError
from fullyconv.fetch import fetch_dataset
from fullyconv.progress import Silent

QUICK = ["--steps", "0", "--epochs", "2", "--hidden", "0", "--scales", "1", "--pixels", "64", "--threads", "1"]


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def trees(root):
    """The content of every archive of the table, in miniature."""
    made = {}

    def packed(file, fill, prefix=""):
        fill(root / file)
        made[file] = miniatures.pack(root / file, root / f"packed-{file}", prefix)

    packed("VOCtrainval_11-May-2012.tar", miniatures.voc, "VOCdevkit/VOC2012/")
    packed("VOCtrainval_25-May-2011.tar", miniatures.voc, "TrainVal/VOCdevkit/VOC2011/")
    packed("SBD_benchmark.tgz", miniatures.sbd, "benchmark_RELEASE/dataset/")
    made["SBD_train_noval.txt"] = b"2008_000002\n2007_000032\n2008_000007\n"
    packed("camvid.tgz", miniatures.camvid_of_fast_ai, "camvid/")
    packed("camvid_tiny.tgz", lambda folder: miniatures.camvid_of_fast_ai(folder, val=0), "camvid_tiny/")
    pets = root / "pets"
    miniatures.pets(pets)
    for part in ("images", "annotations"):
        made[f"oxford_pets_{part}.tar.gz"] = miniatures.pack(pets / part, root / f"{part}.tgz", f"{part}/")
    packed("ADEChallengeData2016.zip", miniatures.ade20k, "ADEChallengeData2016/")
    return made


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return trees(tmp_path_factory.mktemp("archives"))


@pytest.fixture
def server(contents, monkeypatch):
    """A server that has all archives, and a table whose addresses and digests are its own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FULLYCONV_OFFLINE", raising=False)
    monkeypatch.setattr(download_module, "WAITS", (0.0, 0.0, 0.0))
    with serving(b"another file") as server:
        server.files = {f"/{name}": content for name, content in contents.items()}
        for name, found in list(published.PUBLISHED.items()):
            archives = tuple(local(server, archive) for archive in found.archives)
            monkeypatch.setitem(published.PUBLISHED, name, dataclasses.replace(found, archives=archives))
        yield server


def local(server, archive):
    algorithm = "md5" if archive.digest.startswith("md5:") else "sha256"
    digest = hashlib.new(algorithm, server.files[f"/{archive.file}"]).hexdigest()
    return dataclasses.replace(
        archive, digest=f"md5:{digest}" if algorithm == "md5" else digest, urls=(f"{server.url}/{archive.file}",)
    )


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---- each set ----


@pytest.mark.parametrize(
    ("name", "expected", "classes"),
    [
        ("voc2012", {"train": 2, "val": 2}, 21),
        ("sbd", {"train": 3, "val": 2}, 21),
        ("voc2011-sbd", {"train": 3, "val": 1}, 21),
        ("voc2012-sbd", {"train": 4, "val": 2}, 21),
        ("camvid", {"train": 3, "val": 1}, 31),
        ("camvid-tiny", {None: 4}, 31),
        ("oxford-pets", {"train": 2, "test": 2}, 2),
        ("ade20k", {"train": 2, "val": 1}, 150),
    ],
)
def test_a_set_is_read_as_it_comes(name, expected, classes, server, tmp_path):
    folder = tmp_path / "data" / name
    assert fetch_dataset(name, folder, progress=Silent())
    dataset = Dataset.open(folder, ignore=published.PUBLISHED[name].ignore)
    found = {split: len(dataset.split(split)) for split in expected if split}
    assert (found or {None: len(dataset)}) == expected
    assert dataset.class_table.num_classes == classes
    check_dataset(dataset)
    assert sorted(entry.name for entry in folder.parent.iterdir()) == sorted(["archives", name])
    kept = {archive.file for archive in published.PUBLISHED[name].archives}
    assert {entry.name for entry in (folder.parent / "archives").iterdir()} == kept
    assert not (folder / ".parts").exists()


def test_two_steps_of_training_work_on_what_came(server, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "pets"
    assert command_line.run(monkeypatch, "download", "oxford-pets", "-o", folder) == 0
    assert command_line.run(monkeypatch, "check", folder, "--ignore", "3") == 0
    words = ("train", folder, "--ignore", "3", "-o", tmp_path / "run", *QUICK)
    assert command_line.run(monkeypatch, *words) == 0
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_masks_of_sbd_become_palette_pngs_of_the_same_values(server, tmp_path):
    from scipy.io import loadmat

    folder = tmp_path / "sbd"
    fetch_dataset("sbd", folder, progress=Silent())
    miniatures.sbd(tmp_path / "tree")
    for name in ("2008_000002", "2007_000042"):
        expected = loadmat(tmp_path / "tree" / "cls" / f"{name}.mat")["GTcls"][0]["Segmentation"][0]
        with Image.open(folder / "SegmentationClass" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[45:48] == [192, 128, 128]  # person
            assert (np.asarray(mask) == expected).all()
        image = folder / "JPEGImages" / f"{name}.jpg"
        assert image.read_bytes() == (tmp_path / "tree" / "img" / f"{name}.jpg").read_bytes()
    assert (folder / "ImageSets/Segmentation/train.txt").read_text().split() == [
        *("2008_000002", "2007_000032", "2008_000007")
    ]
    assert (folder / "ImageSets/Segmentation/val.txt").read_text().split() == ["2007_000033", "2007_000042"]


def test_the_papers_sets_are_sbds_train_and_what_of_vocs_val_is_not_in_it(server, tmp_path):
    folder = tmp_path / "paper"
    fetch_dataset("voc2011-sbd", folder, progress=Silent())
    lists = {path.stem: path.read_text().split() for path in (folder / "ImageSets/Segmentation").iterdir()}
    assert lists == {"train": ["2008_000002", "2007_000032", "2007_000033"], "val": ["2007_000042"]}
    with Image.open(folder / "SegmentationClass" / "2007_000042.png") as mask:
        assert 255 in np.asarray(mask)  # VOC's own mask, with its border, though SBD has one, too
    with Image.open(folder / "SegmentationClass" / "2007_000032.png") as mask:
        assert 255 not in np.asarray(mask)  # SBD's, though VOC has one, too
    assert sorted(path.stem for path in (folder / "JPEGImages").iterdir()) == sorted(
        [*lists["train"], *lists["val"]]
    )


def test_voc_with_sbd_keeps_vocs_own_masks_and_learns_nothing_of_its_val(server, tmp_path):
    folder = tmp_path / "both"
    fetch_dataset("voc2012-sbd", folder, progress=Silent())
    lists = {path.stem: path.read_text().split() for path in (folder / "ImageSets/Segmentation").iterdir()}
    assert lists["val"] == ["2007_000033", "2007_000042"]
    assert lists["train"] == ["2007_000032", "2007_000039", "2008_000002", "2008_000007"]
    with Image.open(folder / "SegmentationClass" / "2007_000032.png") as mask:
        assert 255 in np.asarray(mask)


def test_camvid_is_split_by_its_list_and_has_its_names(server, tmp_path):
    folder = tmp_path / "camvid"
    fetch_dataset("camvid", folder, progress=Silent())
    assert [path.name for path in (folder / "masks" / "val").iterdir()] == ["0016E5_00003.png"]
    dataset = Dataset.open(folder, ignore=(30,))
    assert "Void" not in dataset.class_table.names
    assert dataset.class_table.names[17] == "Road"


# ---- again, interrupted, damaged ----


def test_again_there_is_nothing_to_do(server, tmp_path):
    folder, progress = tmp_path / "set", Lines()
    assert fetch_dataset("camvid-tiny", folder, progress=Silent())
    before, asked = everything(tmp_path), len(server.requests)
    assert not fetch_dataset("camvid-tiny", folder, progress=progress)
    assert progress.lines == [f"{folder} holds camvid-tiny already: nothing to do"]
    assert everything(tmp_path) == before
    assert len(server.requests) == asked


def test_archives_that_are_there_are_not_downloaded_again(server, tmp_path):
    fetch_dataset("voc2012", tmp_path / "voc", progress=Silent())
    fetch_dataset("voc2012-sbd", tmp_path / "both", progress=Silent())
    fetch_dataset("voc2012", tmp_path / "elsewhere" / "voc", archives=tmp_path / "archives", offline=True)
    assert [path for path, _ in server.requests] == ["/VOCtrainval_11-May-2012.tar", "/SBD_benchmark.tgz"]


@pytest.mark.parametrize("keep", ["a file", "an empty folder", "another set", "a link to nowhere", "bad marker"])
def test_what_is_there_already_is_left_alone(keep, server, tmp_path):
    folder = tmp_path / "set"
    if keep == "a file":
        folder.write_text("mine")
    elif keep == "a link to nowhere":
        folder.symlink_to(tmp_path / "nowhere")
    elif keep == "another set":
        fetch_dataset("camvid-tiny", folder, progress=Silent())
    else:
        folder.mkdir()
        if keep == "bad marker":
            (folder / module.MARKER).write_text("[")
    before, asked = everything(tmp_path), len(server.requests)
    with pytest.raises(
        UsageError, match=r"set exists already and holds (something else|the data set camvid-tiny) "
    ):
        fetch_dataset("camvid", folder, progress=Silent())
    assert everything(tmp_path) == before
    assert len(server.requests) == asked


def test_a_download_goes_on_where_it_broke_off(server, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "WAITS", ())
    half = len(contents["camvid_tiny.tgz"]) // 2
    server.faults = [Fault(keep=half)]
    with pytest.raises(DownloadError, match="the connection ended after"):
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert everything(tmp_path) == ["archives", "archives/.camvid_tiny.tgz.mark", "archives/.camvid_tiny.tgz.part"]
    assert fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert server.ranges == [None, f"bytes={half}-"]
    assert len(Dataset.open(tmp_path / "set")) == 4


@pytest.mark.parametrize("where", ["downloading", "unpacking", "arranging", "marking"])
def test_ctrl_c_leaves_no_folder_and_the_next_call_goes_on(where, server, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "downloading":
            patch.setattr(download_module._Download, "_receive", interrupt)
        elif where == "unpacking":
            patch.setattr("fullyconv.unpack._write", interrupt)
        elif where == "arranging":
            patch.setitem(module.ARRANGED, "camvid-tiny", interrupt)
        else:
            patch.setattr(module.json, "dumps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert [entry.name for entry in tmp_path.iterdir()] == ["archives"]
    assert fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert len(server.requests) == (2 if where == "downloading" else 1)


def test_an_archive_with_another_digest_is_not_kept(server, contents, tmp_path):
    content = contents["camvid_tiny.tgz"]
    server.files["/camvid_tiny.tgz"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(
        DownloadError, match=r"the MD5 has to start with \w{8}, it starts with \w{8}; what came was"
    ):
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert everything(tmp_path) == ["archives"]


def test_an_archive_of_the_user_that_is_another_is_named_and_left(server, tmp_path):
    path = tmp_path / "archives" / "camvid_tiny.tgz"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"camvid_tiny.tgz: expected the digest md5:\w{12}..., got md5:\w{12}..."):
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert path.read_bytes() == b"mine"
    assert server.requests == []


def changed(server, monkeypatch, name, fill, prefix, tmp_path):
    """Let the server have, and the table promise, another archive for a set of one."""
    found = published.PUBLISHED[name]
    fill(tmp_path / "other")
    content = miniatures.pack(tmp_path / "other", tmp_path / found.archives[0].file, prefix)
    shutil.rmtree(tmp_path / "other")
    (tmp_path / found.archives[0].file).unlink()
    server.files[f"/{found.archives[0].file}"] = content
    replaced = dataclasses.replace(found, archives=(local(server, found.archives[0]), *found.archives[1:]))
    monkeypatch.setitem(published.PUBLISHED, name, replaced)


def other_voc(folder):
    miniatures.voc(folder)
    (folder / "SegmentationClass" / "2007_000033.png").unlink()


@pytest.mark.parametrize(
    ("name", "fill", "prefix", "message"),
    [
        ("voc2012", miniatures.voc, "VOC2012/", "the archives should hold VOCdevkit/VOC2012, they do not"),
        ("voc2012-sbd", other_voc, "VOCdevkit/VOC2012/", r"lack 1 of 4 files \*.png in their lists: 2007_000033"),
        ("sbd", miniatures.voc, "", "the archives should hold benchmark_RELEASE/dataset"),
        ("camvid", miniatures.voc, "camvid/", "the archives should hold images"),
        ("oxford-pets", miniatures.voc, "", "the archives should hold images"),
        ("ade20k", miniatures.voc, "", "the archives should hold ADEChallengeData2016"),
    ],
)
def test_archives_that_hold_something_else_leave_no_folder(
    name, fill, prefix, message, server, tmp_path, monkeypatch
):
    changed(server, monkeypatch, name, fill, prefix, tmp_path)
    with pytest.raises(DataError, match=message):
        fetch_dataset(name, tmp_path / "set", progress=Silent())
    assert [entry.name for entry in tmp_path.iterdir()] == ["archives"]


def damaged_sbd(folder):
    miniatures.sbd(folder)
    path = folder / "cls" / "2008_000007.mat"
    path.write_bytes(path.read_bytes()[:200])


def test_a_damaged_mask_of_sbd_is_named(server, tmp_path, monkeypatch):
    changed(server, monkeypatch, "sbd", damaged_sbd, "benchmark_RELEASE/dataset/", tmp_path)
    with pytest.raises(DataError, match=r"2008_000007.mat: expected SBD's GTcls.Segmentation, got none: "):
        fetch_dataset("sbd", tmp_path / "set", progress=Silent())
    assert [entry.name for entry in tmp_path.iterdir()] == ["archives"]


# ---- no network, no room, no extra ----


def test_the_next_address_is_tried_where_one_fails(server, tmp_path, monkeypatch):
    found = published.PUBLISHED["camvid-tiny"]
    (archive,) = found.archives
    gone = dataclasses.replace(archive, urls=("http://127.0.0.1:9/camvid_tiny.tgz", *archive.urls))
    monkeypatch.setitem(published.PUBLISHED, "camvid-tiny", dataclasses.replace(found, archives=(gone,)))
    progress = Lines()
    assert fetch_dataset("camvid-tiny", tmp_path / "set", progress=progress)
    assert progress.lines[0] == (
        "cannot download http://127.0.0.1:9/camvid_tiny.tgz: the server cannot be reached: Connection refused; "
        "trying another address"
    )


def test_where_no_address_answers_the_hint_says_where_to_copy_the_archive(server, tmp_path, monkeypatch):
    found = published.PUBLISHED["camvid-tiny"]
    gone = dataclasses.replace(found.archives[0], urls=("http://127.0.0.1:9/x.tgz",))
    monkeypatch.setitem(published.PUBLISHED, "camvid-tiny", dataclasses.replace(found, archives=(gone,)))
    with pytest.raises(DownloadError) as caught:
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert str(caught.value).endswith(
        f"(copy camvid_tiny.tgz to {tmp_path / 'archives'}; it lies at http://127.0.0.1:9/x.tgz)"
    )


@pytest.mark.parametrize("by", ["option", "environment"])
def test_offline_nothing_is_asked_for(by, server, tmp_path, monkeypatch):
    if by == "environment":
        monkeypatch.setenv("FULLYCONV_OFFLINE", "1")
    with pytest.raises(
        UsageError, match=r"there is no .*camvid_tiny.tgz, and offline it is not downloaded \(copy"
    ):
        fetch_dataset("camvid-tiny", tmp_path / "set", offline=by == "option", progress=Silent())
    assert server.requests == []
    assert everything(tmp_path) == []


def test_a_disk_without_room_for_the_archive_is_found_before_it_comes(server, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(DownloadError, match=r"has 0.0 MB free, the download needs .* with -o and --archives"):
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())


def test_a_disk_without_room_to_unpack_is_found_before_it_is_begun(server, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download_module, "_check_room", lambda *arguments: None)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(DownloadError, match="unpacking needs at least"):
        fetch_dataset("camvid-tiny", tmp_path / "set", progress=Silent())
    assert everything(tmp_path) == ["archives", "archives/camvid_tiny.tgz"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
@pytest.mark.parametrize("name", ["voc2012", "sbd"])
def test_a_disk_that_fills_up_while_unpacking_leaves_no_folder(name, server, tmp_path):
    import resource
    import signal

    archives = tmp_path / "archives"
    fetch_dataset(name, tmp_path / "first", progress=Silent())
    # A limit on the size of files is the full disk that a test can make.
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(DownloadError) as caught:
            fetch_dataset(name, tmp_path / "set", progress=Silent())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value) == f"cannot write {tmp_path / 'set'}: File too large ({module.DISK_HINT})"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [archives.name, "first"]


def test_without_scipy_nothing_is_downloaded_that_needs_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr("fullyconv.arrange.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "fullyconv\[sbd\]"'):
        fetch_dataset("sbd", tmp_path / "set", progress=Silent())
    assert server.requests == []
    assert fetch_dataset("voc2012", tmp_path / "set", progress=Silent())


# ---- the verb ----


def test_the_verb_lists_what_there_is(monkeypatch):
    done = command_line.answer(monkeypatch, "download")
    assert (done.returncode, done.stderr) == (0, "")
    for found in published.PUBLISHED.values():
        for words in (found.name, found.title, found.splits, found.terms):
            assert words in done.stdout
    assert "download: 2,000 MB" in done.stdout


def test_the_verb_says_terms_and_what_comes_next(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command_line.answer(monkeypatch, "download", "camvid-tiny")
    assert done.returncode == 0
    assert done.stdout == "data/camvid-tiny\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("camvid-tiny: 100 images of CamVid")
    assert lines[1].startswith("terms: to be cited as its authors ask")
    assert lines[-2] == f"the archives stay in {tmp_path / 'data' / 'archives'}: remove them if you need the room"
    assert lines[-1] == (
        "next: fullyconv check data/camvid-tiny --ignore 30; "
        "fullyconv train data/camvid-tiny --ignore 30 -o runs/camvid-tiny"
    )
    again = command_line.answer(monkeypatch, "download", "camvid-tiny")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert "archives stay" not in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["voc"], "error: expected a data set, one of voc2012, sbd, "),
        (["--offline"], "error: expected the name of a data set with these options"),
        (["camvid", "--offline"], "camvid.tgz, and offline it is not downloaded"),
    ],
)
def test_usage_errors_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command_line.answer(monkeypatch, "download", *words)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
