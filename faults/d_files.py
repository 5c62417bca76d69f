"""D: files that are read by name: cut, flipped, with headers that lie, pickles under every name."""

import json
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from machinery import SETTINGS, Canary, mutations, run, save_small_model

from fullyconv.errors import ModelFileError
from fullyconv.model_file import load_model
from fullyconv.synthetic import write_dataset
from fullyconv.tensor_file import read_tensor_file, write_tensor_file


def mutate_model(folder: Path, tries: int) -> Iterator[bool]:
    """D3: model files cut and flipped: refused in one line, or exactly the model."""
    save_small_model(folder / "m.safetensors")
    data = (folder / "m.safetensors").read_bytes()
    changed_file = folder / "changed.safetensors"
    for changed in mutations(data, tries, random.Random(0)):
        changed_file.write_bytes(changed)
        try:
            load_model(changed_file)
        except ModelFileError:
            yield True
        except Exception as error:
            print(f"  {type(error).__name__}: {error}")
            yield False
        else:
            yield False


PLACES = {
    "evil.tif": ("tiffs/images/a.tif", "tiffs/masks/a.tif"),
    "evil.npy": ("arrays/images_training.npy", "arrays/seg_training.npy"),
    "evil.arrow": ("table/rows.arrow",),
    "evil.yaml": ("yolo/data.yaml", "yolo/labels/a.txt"),
    "evil.checkpoint": ("resumed/checkpoint/epoch-0009.safetensors", "resumed/checkpoint/epoch-0008.safetensors"),
}
"""Where else a pickle is put, by its name."""


def _places(folder: Path) -> None:
    """Make the folders of these places, and a model and a run that are whole."""
    for places in PLACES.values():
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "table" / "state.json").write_text('{"_data_files": [{"filename": "rows.arrow"}]}')
    (folder / "yolo" / "images").mkdir()
    shutil.copy(next((folder / "data/images/val").iterdir()), folder / "yolo/images/a.png")
    save_small_model(folder / "m.safetensors")
    shutil.rmtree(folder / "resumed")
    run(folder, "train", "data", "-o", "resumed", *SETTINGS)
    for checkpoint in (folder / "resumed/checkpoint").iterdir():
        checkpoint.unlink()


def plant_pickles(folder: Path, tries: int) -> Iterator[bool]:
    """D1: a pickle under the name of every kind of file that is read: refused, and not executed."""
    write_dataset(folder / "data", train=2, val=1, test=0, size=(96, 128), seed=0)
    mark, image = folder / "executed", "data/images/val/" + next((folder / "data/images/val").iterdir()).name
    torch.save(Canary(mark), folder / "evil")
    plans = [
        ("evil.safetensors", ["predict", "evil.safetensors", image, "-o", "out"]),
        ("evil.onnx", ["predict", "evil.onnx", image, "-o", "out"]),
        ("evil.openvino", ["evaluate", "evil.openvino", "data"]),
        ("evil.safetensors", ["train", "data", "-o", "run1", "--from", "evil.safetensors"]),
        ("evil.pth", ["train", "data", "-o", "run2", "--encoder", "resnet18", "--encoder-weights", "evil.pth"]),
        ("evil.pt", ["train", "data", "-o", "run3", "--encoder", "vgg16", "--encoder-weights", "evil.pt"]),
        ("evil.safetensors", ["train", "data", "-o", "run4", "--encoder", "cae:evil.safetensors"]),
        ("evil.npy", ["predict", "evil.safetensors", "evil.npy", "-o", "out"]),
        ("evil.json", ["check", "evil.json"]),
        ("evil.png", ["predict", "m.safetensors", "evil.png", "-o", "out"]),
        ("evil.tif", ["check", "tiffs", "--channels", "2"]),
        ("evil.npy", ["train", "arrays", "-o", "run5", *SETTINGS]),
        ("evil.arrow", ["check", "table"]),
        ("evil.toml", ["train", "data", "-o", "run6", "--config", "evil.toml"]),
        ("evil.rules", ["predict", "m.safetensors", image, "-o", "out", "--rules", "evil.rules"]),
        ("evil.list", ["check", "evil.list"]),
        ("evil.classes", ["check", "data", "--classes", "evil.classes"]),
        ("evil.yaml", ["check", "yolo"]),
        ("evil.checkpoint", ["train", "data", "-o", "resumed", "--resume"]),
    ]
    _places(folder)
    for number in range(tries):
        name, arguments = plans[number % len(plans)]
        for place in (name, *PLACES.get(name, ())):
            shutil.copy(folder / "evil", folder / place)
        done = run(folder, *arguments)
        refused = done.returncode in (1, 2) and "Traceback" not in done.stderr
        if not refused or mark.exists():
            print(f"  {arguments}: exit {done.returncode}, executed: {mark.exists()}, {done.stderr[-200:]}")
        yield refused and not mark.exists()
        (folder / name).unlink()


def attack_headers(folder: Path, tries: int) -> Iterator[bool]:
    """D2: headers that lie: lengths, shapes, offsets, kinds, names; and bytes changed: refused, little memory."""
    path = folder / "x.safetensors"
    write_tensor_file(path, "x", 1, {"note": "a"}, {"one": torch.arange(6.0), "two": torch.ones(2, 2)})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]

    def changed(**values: object) -> bytes:
        text = json.dumps({**header, "one": {**header["one"], **values}}).encode()
        return len(text).to_bytes(8, "little") + text + content

    text = data[8 : 8 + length]
    lies = [
        *((2**power - 1).to_bytes(8, "little") + data[8:] for power in (8, 27, 31, 32, 62, 63, 64)),
        bytes(8),
        (100_000_000).to_bytes(8, "little") + b" " * 1000,
        changed(shape=[2**40, 2**40]),
        changed(shape=[-1]),
        changed(shape=[5]),
        changed(dtype="I64"),
        changed(dtype="F4"),
        changed(data_offsets=[0, 2**62]),
        changed(data_offsets=[4, 28]),
        changed(data_offsets=[24, 0]),
        (length + 2).to_bytes(8, "little") + text.replace(b'"two"', b'"one"', 1) + b"  " + content,
        len(b"[" * 100_000).to_bytes(8, "little") + b"[" * 100_000,
        len(b"null").to_bytes(8, "little") + b"null",
        data + b"more",
        data[: 8 + length],
    ]
    for lie in [*lies, *mutations(data, tries, random.Random(0))]:
        path.write_bytes(lie)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_tensor_file(path, "x", 1)
        except ModelFileError as error:
            good = "\n" not in str(error)
        except Exception as error:
            print(f"  {type(error).__name__}: {error}")
            good = False
        else:
            good = False
        yield good and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
