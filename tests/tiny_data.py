"""Images, masks and encoders that are small enough to compute with in every test."""

import numpy as np
import torch
from PIL import Image as PillowImage
from tiny_decoders import TinyNetwork

from fullyconv.dataset import Dataset
from fullyconv.encoder import Encoder


class ThreadNetwork(TinyNetwork):
    """Its features depend on the number of threads that compute them, as float sums do, only more."""

    def forward(self, images, strides):
        return [maps + torch.get_num_threads() for maps in super().forward(images, strides)]


def tiny_encoder(strides=(4, 8, 16, 32), scales=(1.0,), network=TinyNetwork, precision=torch.float32):
    """An encoder with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(network(), strides, scales).set_precision(precision)


def write_pair(root, name, image, mask):
    """Write an image and its mask into a data folder."""
    for kind, array in (("images", image), ("masks", mask)):
        path = root / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(array).save(path)


def draw_pair(size, seed, classes=3, ignored=0.2):
    """A noisy image and a mask of class indices, some of them ignored."""
    draw = np.random.default_rng(seed)
    mask = draw.integers(0, classes, size, dtype=np.uint8)
    mask[draw.random(size) < ignored] = 255
    return draw.integers(0, 256, (*size, 3), dtype=np.uint8), mask


def tiny_dataset(root, sizes, **options):
    """Write noisy images of these sizes and open them."""
    for number, size in enumerate(sizes):
        write_pair(root, f"{number:03}", *draw_pair(size, number, **options))
    return Dataset.open(root)
