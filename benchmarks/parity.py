"""Logits of imported networks against those of others' implementations, with weights of the published layout.

    python benchmarks/parity.py
    python benchmarks/parity.py --families torchvision --sizes 64x96

For each family a network with random weights is written to a file as its publisher writes it, imported by
`fullyconv.importers`, and run on images of noise. The reference is torchvision's own network, and for the released
FCNs, whose Caffe is not to be had everywhere, the plain one in `tests/released.py`, which shares no code with the
package. A family may take 2 GB of memory, and of the disk half a gigabyte at a time.

    tensors       in the file; all of them are taken over
    difference    the largest of two logits, as a share of the largest logit, over all sizes
    pixels        whose class differs, of all
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from _machine import machine, write_results
from torch import Tensor, nn

from fullyconv.device import set_threads
from fullyconv.importers import import_model

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from caffemodels import caffemodel, scales
from oracles import import_torchvision, random_reference
from released import PlainAlexNet, PlainVGG, preprocessed

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvisions(depth: int) -> Callable[[], nn.Module]:
    """Torchvision's FCN-ResNet."""
    return lambda: getattr(import_torchvision().models.segmentation, f"fcn_resnet{depth}")(
        weights=None, weights_backbone=None, aux_loss=True
    )


def vgg(stride: int, at_once: bool = False) -> Callable[[], nn.Module]:
    """A released FCN on VGG16."""
    return lambda: PlainVGG(stride, at_once)


FAMILIES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "torchvision fcn_resnet50": ("fcn_resnet50_coco.pth", torchvisions(50)),
    "torchvision fcn_resnet101": ("fcn_resnet101_coco.pth", torchvisions(101)),
    "pytorch-fcn FCN-32s": ("fcn32s_from_caffe.pth", vgg(32)),
    "pytorch-fcn FCN-16s": ("fcn16s_from_caffe.pth", vgg(16)),
    "pytorch-fcn FCN-8s": ("fcn8s_from_caffe.pth", vgg(8)),
    "pytorch-fcn FCN-8s at once": ("fcn8s-atonce_from_caffe.pth", vgg(8, True)),
    "Caffe FCN-32s": ("fcn32s-heavy-pascal.caffemodel", vgg(32)),
    "Caffe FCN-16s": ("fcn16s-heavy-pascal.caffemodel", vgg(16)),
    "Caffe FCN-8s": ("fcn8s-heavy-pascal.caffemodel", vgg(8)),
    "Caffe FCN-8s at once": ("fcn8s-atonce-pascal.caffemodel", vgg(8, True)),
    "Caffe FCN-AlexNet": ("fcn-alexnet-pascal.caffemodel", PlainAlexNet),
}
"""By name: the file as it is published, and what makes the network."""


def write(reference: nn.Module, path: Path, at_once: bool) -> int:
    """Write a network as its publisher does, and count its tensors."""
    if path.suffix == ".caffemodel":
        extra = scales() if at_once else []
        caffemodel(reference, path, extra)
        return len(reference.state_dict()) + len(extra)
    torch.save(reference.state_dict(), path)
    return len(reference.state_dict())


def expected(reference: nn.Module, images: Tensor, name: str) -> Tensor:
    """Logits of the reference, fed as its publisher feeds it."""
    if not name.startswith("torchvision"):
        return reference(preprocessed(images))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return reference((images / 255 - mean) / deviation)["out"]


@torch.no_grad()
def measure(name: str, sizes: list[tuple[int, int]], folder: Path) -> dict[str, object]:
    """Import one family and compare."""
    torch.manual_seed(0)
    file, build = FAMILIES[name]
    reference = random_reference(build)
    path = folder / file
    tensors = write(reference, path, "at once" in name)
    model = import_model(path)
    path.unlink()
    largest, different, pixels = 0.0, 0, 0
    for height, width in sizes:
        if name.startswith("torchvision"):  # elsewhere it stretches the logits
            height, width = (-(-side // 8) * 8 for side in (height, width))
        images = torch.randint(0, 256, (1, 3, height, width)).byte()
        theirs, ours = expected(reference, images, name), model(images)
        largest = max(largest, float((theirs - ours).abs().max() / theirs.abs().max()))
        different += int((theirs.argmax(1) != ours.argmax(1)).sum())
        pixels += height * width
    return {
        "family": name,
        "tensors": tensors,
        "difference": largest,
        "different": different,
        "pixels": pixels,
    }


def size_of(text: str) -> tuple[int, int]:
    """HxW as numbers."""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=[""], help="those whose names hold one of these words")
    parser.add_argument("--sizes", nargs="*", type=size_of, default=[(1, 1), (37, 100), (128, 96)], metavar="HxW")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    set_threads(options.threads)
    lines = ["| family | tensors | largest difference of logits | pixels that differ |", "|---|---|---|---|"]
    found = []
    if not options.json:
        print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            if any(word in name for word in options.families):
                found.append(row := measure(name, options.sizes, Path(folder)))
                lines.append(
                    f"| {name} | {row['tensors']} | {row['difference']:.1e} | "
                    f"{row['different']} of {row['pixels']} |"
                )
                if not options.json:
                    print(lines[-1], flush=True)
    if options.json:
        print(json.dumps({**machine(), "families": found}))
    elif options.write:
        print(write_results("parity", lines))


if __name__ == "__main__":
    main()
