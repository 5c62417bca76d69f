"""The forecast of features against what the cache really holds."""

import pytest
from tiny_data import tiny_dataset

from fullyconv.config import recipe
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.forecast import forecast
from fullyconv.model import build_model
from fullyconv.transforms import PLAIN


def test_disk_is_what_the_features_take(tmp_path):
    dataset = tiny_dataset(tmp_path / "data", [(64, 96)] * 6)
    config = recipe("fast", train_on="maps", device="cpu")
    found = forecast(dataset, dataset, config)
    assert found.views == 6 * 2 + 6
    assert found.seconds > 0
    cache = FeatureCache(tmp_path / "cache")
    list(
        FeatureReader(build_model(config, dataset.class_table).encoder, dataset, cache).all_maps(
            (s, PLAIN) for s in dataset
        )
    )
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert found.disk_bytes / 3 == pytest.approx(kept, rel=0.1)
    points = forecast(dataset, None, recipe("fast", pixels=100, device="cpu"))
    channels = sum(spec.channels for spec in build_model(config, dataset.class_table).encoder.specs)
    assert (points.views, points.disk_bytes) == (12, 12 * 100 * channels * 2)
    assert str(points).startswith("features of 12 views take about ")
