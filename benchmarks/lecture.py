"""The lecture's network: two classes learned on EfficientNet-Lite0; the deck's sizes on VGG16 without weights.

    python benchmarks/lecture.py ../shared/data/camvid --ignore 11 --positive 3

The data set is read as two classes, one class (CamVid's road is 3) against the rest. The VGG16 here is RANDOM: its
part shows shapes, counts and a falling loss, never a quality.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from _machine import machine, open_or_draw

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.images import write_mask
from fullyconv.model import FCN
from fullyconv.progress import Console
from fullyconv.train import train


def two_classes(dataset: Dataset, positive: int, folder: Path) -> Dataset:
    """Write masks of two classes beside links to the images."""
    lines = []
    for number, sample in enumerate(dataset):
        target = dataset.read_target(sample)
        values = (target == positive).astype("uint8")
        values[target == 255] = 255
        path = folder / "masks" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, values, {0: (0, 0, 0), 1: (0, 255, 0)})
        lines.append(f"{sample.image.resolve()}\t{path}\t{sample.split}")
    (folder / "pairs.txt").write_text("\n".join(lines), encoding="utf-8")
    return Dataset.open(folder / "pairs.txt", classes=["rest", dataset.class_table.names[positive]])


def on_vgg16(steps: int) -> dict[str, object]:
    """Count the deck's network and take a few steps on one random image of 160x576."""
    torch.manual_seed(0)
    table = ClassTable((ClassEntry("background", 0, (0, 0, 0)), ClassEntry("road", 1, (0, 255, 0))))
    model = FCN.build(table, encoder="vgg16", encoder_weights="none", decoder="lecture").train()
    images, targets = torch.randint(0, 256, (1, 3, 160, 576)), torch.zeros(1, 160, 576, dtype=torch.long)
    targets[:, 80:, 144:432] = 1
    features = model.features(images)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-4)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model.logits(features, (160, 576)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 4))
    count = sum(parameter.numel() for parameter in model.decoder.parameters())
    return {
        "encoder": "RANDOM vgg16",
        "features": {
            spec.tap.name: list(maps.shape[1:]) for spec, maps in zip(model.encoder.specs, features, strict=True)
        },
        "logits": list(model.logits(features, (160, 576)).shape),
        "trained_parameters": count,
        "all_parameters": count + sum(parameter.numel() for parameter in model.encoder.network.parameters()),
        "losses": losses,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--positive", type=int, default=1, help="class index against the rest")
    parser.add_argument("--width", type=int, default=256, help="channels of conv6 and fcn4 on EfficientNet-Lite0")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="on VGG16")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), folder / "data")
        two = two_classes(dataset, arguments.positive, folder / "two")
        config = replace(
            recipe(decoder="lecture", width=arguments.width, lr=1e-3),
            epochs=arguments.epochs,
            steps=0,
            mirror=False,
        )
        report = train(two, folder / "run", config, progress=Console()).report
    result = {
        "machine": machine(),
        "efficientnet_lite0": {
            "width": arguments.width,
            **report.to_json(),
        },
        "vgg16": on_vgg16(arguments.steps),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(report.table())
    for key, value in result["vgg16"].items():
        print(f"{key:20} {value}")


if __name__ == "__main__":
    main()
