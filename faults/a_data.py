"""A: data that nobody can have wanted: broken images, bombs, sets that are broken, odd names, tiny sets."""

import os
import random
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from broken_sets import BROKEN, make
from machinery import SETTINGS, digest, mounted, mutations, run, save_small_model
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.images import read_image
from fullyconv.synthetic import write_dataset

SIDE = 60_000
"""Of the bombs: 3.6 thousand million pixels."""

MEMORY = 1_000_000_000
"""Bytes of address space that the reader of bombs has."""

READ_BOMB = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from fullyconv.errors import DataError
from fullyconv.images import read_image, read_mask_array, verify_image
refused = 0
for read in (read_image, read_mask_array, verify_image):
    try:
        read(sys.argv[1])
    except DataError as error:
        refused += "\\n" not in str(error)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.exit(refused != 3 or peak > 300_000)
"""


def break_images(folder: Path, tries: int) -> Iterator[bool]:
    """A1: images of every format cut, flipped, zeroed: read, or refused in one line."""
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    kinds = ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm")
    for kind in kinds:
        picture.save(folder / f"whole.{kind}")
    for kind in kinds:
        data = (folder / f"whole.{kind}").read_bytes()
        for changed in mutations(data, tries // len(kinds), random.Random(kind)):
            path = folder / f"broken.{kind}"
            path.write_bytes(changed)
            try:
                found = read_image(path)
            except DataError as error:
                yield "\n" not in str(error)
            except Exception as error:
                print(f"  {kind}: {type(error).__name__}: {error}")
                yield False
            else:
                yield found.ndim == 3 and found.dtype == np.uint8


def bombs() -> dict[str, bytes]:
    """Small files that say, or are, thousands of millions of pixels; by the names they get."""
    row = zlib.compress(bytes(SIDE // 8 + 1) * 2000, 9)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)),
        (b"IDAT", row),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    tags = [(256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, SIDE), (279, 9)]
    tiff = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(300)
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, SIDE, SIDE, 3) + b"\1\x22\0\2\x11\1\3\x11\1"
    canvas = struct.pack("<I", 0)[:4] + struct.pack("<I", 16_000_000 - 1)[:3] * 2
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    return {
        "a.png": png,
        "a.bmp": b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHH", 40, SIDE, SIDE, 1, 24)
        + bytes(40),
        "a.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\1\0;",
        "a.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "a.tif": tiff,
        "a.jpg": jpeg + bytes(100),
        "a.webp": webp,
    }


def explode(folder: Path, tries: int) -> Iterator[bool]:
    """A2: bombs of every format, read with a gigabyte of address space: refused, at most 300 MB taken."""
    for _, (name, data) in zip(range(tries), bombs().items(), strict=False):
        (folder / name).write_bytes(data)
        done = subprocess.run([sys.executable, "-c", READ_BOMB, folder / name], capture_output=True, text=True)
        if done.returncode:
            print(f"  {name}: {done.stderr[-300:]}")
        yield done.returncode == 0


def refuse_broken_sets(folder: Path, tries: int) -> Iterator[bool]:
    """A5: broken data sets: `train` refuses before the first epoch in the right words, the data unchanged."""
    names = [name for name, broken in BROKEN.items() if broken.refused]
    for number, name in enumerate(names[:tries]):
        data = make(folder / f"set{number}", name)
        before = digest(data)
        done = run(folder, "train", data.name, "-o", f"run{number}", *SETTINGS)
        good = done.returncode == 2 and BROKEN[name].words in done.stderr and "epoch 1" not in done.stderr
        if not good:
            print(f"  {name}: exit {done.returncode}, {done.stderr[-300:]}")
        yield good and "Traceback" not in done.stderr and digest(data) == before


NAMES = [
    "with blanks",
    "emoji \N{PILE OF POO}",
    unicodedata.normalize("NFC", "caf\u00e9"),
    unicodedata.normalize("NFD", "th\u00e9"),
    "x" * 230,
    "line\nbreak",
    "-leading",
    "--help",
    "a.b.c",
    "1",
    "10",
    "11",
    "'quoted' \"twice\"",
    "$(touch x)",
    "[glob]*",
    "tab\there",
    "bytes \udcff\udcfe",
]


def odd_names(folder: Path, tries: int) -> Iterator[bool]:
    """A6: names of all kinds, fifos and loops of links: everything is used, nothing blocks, lines stay lines."""
    draw = np.random.default_rng(0)
    data = folder / "data"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
        (data / kind / "loop").symlink_to(data / kind)
        os.mkfifo(data / kind / "pipe.png")
    for name in NAMES:
        image = draw.integers(0, 256, (40, 50, 3), np.uint8)
        mask = (draw.random((40, 50)) < 0.5).astype(np.uint8)
        Image.fromarray(image).save(os.fsencode(data / "images" / f"{name}.PNG"), "PNG")
        Image.fromarray(mask).save(os.fsencode(data / "masks" / f"{name}.png"), "PNG")
    ids = {sample.id for sample in Dataset.open(data)}
    for name in NAMES[:tries]:
        yield unicodedata.normalize("NFC", name) in ids
    for kind in ("images", "masks"):
        (folder / "text" / kind).mkdir(parents=True)
        for path in (data / kind).iterdir():
            if path.is_file() and "bytes" not in path.name:
                shutil.copy(path, folder / "text" / kind)
    before = digest(data)
    refused = run(folder, "convert", "data", "as-labelme", "--format", "labelme")
    yield refused.returncode == 2 and "expected a name in UTF-8" in refused.stderr
    yield run(folder, "train", "data", "-o", "run", *SETTINGS).returncode == 0
    model = "run/best.safetensors"
    plans = [
        ["check", "data", "--no-cost"],
        ["evaluate", model, "data", "--split", "all"],
        ["report", model, "data", "--split", "all", "-o", "page.html"],
        ["predict", model, "data/images", "-o", "masks", "--geojson", "--coco", "--areas"],
        ["convert", "data", "as-folders"],
        *(["convert", "text", f"as-{kind}", "--format", kind] for kind in ("coco", "voc", "hugging-face")),
    ]
    for plan in plans:
        done = run(folder, *plan)
        if done.returncode:
            print(f"  {plan}: exit {done.returncode}, {done.stderr[-400:]}")
        yield done.returncode == 0 and "Traceback" not in done.stderr
    masks = [path for path in (folder / "masks").rglob("*.png") if not path.name.endswith("_overlay.png")]
    yield len(masks) == len(NAMES)
    yield digest(data) == before


def tiny_sets(folder: Path, tries: int) -> Iterator[bool]:
    """A7: no image, one image, one pixel, one row: trained and predicted, or refused in one line."""
    sizes = {
        "none": [],
        "one": [(40, 50)],
        "pixels": [(1, 1)] * 4,
        "rows": [(1, 3000)] * 3,
        "columns": [(2999, 1)] * 3,
    }
    for name, shapes in list(sizes.items())[:tries]:
        draw = np.random.default_rng(0)
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for number, shape in enumerate(shapes):
            mask = (draw.random(shape) < 0.5).astype(np.uint8) if shape != (1, 1) else np.full(shape, number % 2)
            Image.fromarray(draw.integers(0, 256, (*shape, 3), np.uint8)).save(
                folder / name / f"images/{number}.png"
            )
            Image.fromarray(mask.astype(np.uint8)).save(folder / name / f"masks/{number}.png")
        done = run(folder, "train", name, "-o", f"run-{name}", *SETTINGS)
        small = name in ("none", "one")
        good = done.returncode == (2 if small else 0) and "Traceback" not in done.stderr
        if good and not small:
            done = run(folder, "predict", f"run-{name}/best.safetensors", f"{name}/images", "-o", f"out-{name}")
            good = done.returncode == 0
        if not good:
            print(f"  {name}: exit {done.returncode}, {done.stderr[-300:]}")
        yield good


def read_only_data(folder: Path, tries: int) -> Iterator[bool]:
    """A8: every verb on a data folder that is mounted for reading only: it works, and no byte changes."""
    write_dataset(folder / "data", train=3, val=2, test=1, size=(64, 96), seed=0)
    save_small_model(folder / "m.safetensors")
    before = digest(folder / "data")
    plans: list[list[object]] = [
        ["check", "data"],
        ["train", "data", "-o", "run", *SETTINGS[:-2]],
        ["evaluate", "run/best.safetensors", "data"],
        ["report", "run/best.safetensors", "data", "-o", "page.html"],
        ["predict", "run/best.safetensors", "data/images/val", "-o", "out"],
        ["compare", "run/best.safetensors", "run/last.safetensors", "data"],
        ["convert", "data", "coco", "--format", "coco"],
        ["explain", "run/best.safetensors", "--data", "data", "-o", "figure.png"],
        ["pretrain", "data/images/train", "-o", "cae", "--steps", "2", "--epochs", "1", "--batch", "2"],
    ]
    for plan in plans[:tries]:
        done = run(folder, *plan, before=mounted(folder / "data", "--bind -o ro", source=folder / "data"))
        if done.returncode:
            print(f"  {plan}: exit {done.returncode}, {done.stderr[-300:]}")
        yield done.returncode == 0 and digest(folder / "data") == before
