"""What reading a data set's features will take, in time and on disk, before it is done."""

import statistics
import time
from dataclasses import dataclass

from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.device import choose_device, choose_precision
from fullyconv.features import FeatureReader
from fullyconv.memory import shown_bytes
from fullyconv.model import build_model
from fullyconv.progress import duration
from fullyconv.transforms import PLAIN, make_views

__all__ = ["Forecast", "forecast"]

TRIED = 4
"""Images of which the features are read, for the time that one takes."""


@dataclass(frozen=True)
class Forecast:
    """What the feature cache will need.

    Attributes:
        views: Images and views of them.
        seconds: To read their features once, by all threads.
        disk_bytes: To keep them.
    """

    views: int
    seconds: float
    disk_bytes: int

    def __str__(self) -> str:
        return (
            f"features of {self.views} views take about {duration(self.seconds)}, once, and up to "
            f"{shown_bytes(self.disk_bytes)} of disk"
        )


def forecast(train: Dataset, val: Dataset | None, config: TrainConfig) -> Forecast:
    """Measure a few images and multiply.

    Args:
        train: The samples to learn from.
        val: The samples to measure on; each is read once, whole.
        config: The settings of the training.
    """
    encoder = build_model(config, train.class_table).encoder.to(choose_device(config.device))
    encoder.set_precision(choose_precision(config.precision, encoder.mean.device))
    views = make_views(config.mirror, config.view_scales, config.colour_views)
    reader = FeatureReader(encoder, train)
    tried = [train[i * len(train) // min(TRIED, len(train))] for i in range(min(TRIED, len(train)))]
    list(reader.all_maps((sample, PLAIN) for sample in tried[:1]))  # the first one warms up
    began = time.perf_counter()
    list(reader.all_maps((sample, PLAIN) for sample in tried))
    each = (time.perf_counter() - began) / len(tried)
    sizes = [train.read_target(sample).shape for sample in tried]
    map_bytes = statistics.mean(reader.map_bytes((height, width)) for height, width in sizes)
    item_bytes = reader.point_bytes(config.pixels) if config.train_on == "points" else map_bytes
    count, measured = len(train) * len(views), len(val) if val is not None else 0
    return Forecast(count + measured, (count + measured) * each, int(count * item_bytes + measured * map_bytes))
