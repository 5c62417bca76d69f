"""Sparse labels: a model trained on scribbles of one percent of the pixels against one trained on all of them.

    python benchmarks/scribbles.py ../shared/data/camvid --ignore 11 --recipes fast default

A scribble is a line three pixels wide that wanders within one class; classes of an image take turns until the
share of labelled pixels is reached, and all other pixels are 255. Only the train split is changed; the mean IoU is
that of the val split, fully labelled, best epoch, one seed.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from _machine import machine, open_or_draw, write_results

from fullyconv.config import recipe
from fullyconv.convert import convert
from fullyconv.dataset import Dataset
from fullyconv.images import read_mask_array, write_mask
from fullyconv.train import train

LONGEST = 40
"""Steps of a scribble."""


def scribbled(mask: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Keep scribbles of a mask, 255 elsewhere."""
    kept = np.full_like(mask, 255)
    classes = [value for value in np.unique(mask).tolist() if value != 255]
    places = {value: np.argwhere(mask == value) for value in classes}
    turn = 0
    while classes and (kept != 255).mean() < share:
        value = classes[turn % len(classes)]
        row, column = places[value][draw.integers(len(places[value]))]
        angle = draw.uniform(0, 2 * np.pi)
        for _ in range(LONGEST):
            near = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            kept[near] = np.where(mask[near] == value, value, kept[near])
            angle += draw.normal(0, 0.3)
            row, column = round(row + 1.5 * np.sin(angle)), round(column + 1.5 * np.cos(angle))
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if not inside or mask[row, column] != value:
                break
        turn += 1
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--recipes", nargs="+", default=["fast", "default"])
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as name:
        whole = open_or_draw(arguments.data, tuple(arguments.ignore), Path(name, "drawn"))
        sparse = Path(name, "sparse")
        convert(whole, sparse)
        draw = np.random.default_rng(0)
        labelled = []
        for path in sorted((sparse / "masks" / "train").rglob("*.png")):
            kept = scribbled(read_mask_array(path), arguments.share, draw)
            labelled.append((kept != 255).mean())
            write_mask(path, kept, {}, overwrite=True)
        for kind in arguments.recipes:
            scores = {}
            for title, data in (("all", whole), ("scribbles", Dataset.open(sparse))):
                run = Path(name, f"{kind}-{title}")
                scores[title] = train(data, run, recipe(kind)).report.mean_iou
                shutil.rmtree(run)
            found[kind] = scores
            rows.append(f"| {kind} | {scores['all']:.4f} | {scores['scribbles']:.4f} |")
    if arguments.json:
        print(json.dumps({**machine(), "labelled": float(np.mean(labelled)), "mean_iou": found}))
        return
    head = ["| recipe | all pixels | scribbles |", "|---|---|---|"]
    lines = [f"{np.mean(labelled):.2%} of the training pixels are labelled.", "", *head, *rows]
    print("\n".join(lines))
    print(write_results("scribbles", lines))


if __name__ == "__main__":
    main()
