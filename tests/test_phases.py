"""How phases begin among several processes. `test_session` and `test_train` have the rest."""

from dataclasses import replace

import pytest
from test_processes import POINTS, alone  # noqa: F401 - a fixture
from test_trackers import Lines
from torch import device, nn

from fullyconv import processes
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.findings import examine
from fullyconv.model import build_model
from fullyconv.phases import Phases
from fullyconv.synthetic import write_dataset

TUNED = {**POINTS, "epochs": 0, "train_encoder": "all", "live_statistics": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("phases") / "data"
    write_dataset(root, train=2, val=2, test=0, size=(64, 96), seed=3)
    return Dataset.open(root)


def phases(data, settings, *, cache=None, model=None):
    lines, config = Lines(), recipe(**settings)
    splits = {name: data.split(name) for name in ("train", "val")}
    both = replace(splits["train"], samples=tuple(sample for part in splits.values() for sample in part))
    model = model or build_model(config, data.class_table)
    return Phases(config, model, splits, examine(both, strict=True).summaries, cache, lines), lines.lines


def test_one_process_may_do_all_of_it(data):
    found, lines = phases(data, {**TUNED, "compile": True})
    assert len(found.openers) == 1
    assert not lines


def test_several_processes_compile_no_live_statistics(data, alone):  # noqa: F811
    with processes.joined(device("cpu")):
        with pytest.raises(UsageError, match="compile no layers with live statistics"):
            phases(data, {**TUNED, "compile": True})
        assert len(phases(data, TUNED)[0].openers) == 1


def test_several_processes_refuse_live_batch_norms_of_other_libraries(data, alone):  # noqa: F811
    model = build_model(recipe(**TUNED), data.class_table)
    model.encoder.network.theirs = nn.BatchNorm2d(3)
    with processes.joined(device("cpu")):
        with pytest.raises(UsageError, match="keep the statistics of encoder efficientnet_lite0 fixed: theirs is"):
            phases(data, TUNED, model=model)
        phases(data, {**TUNED, "live_statistics": False}, model=model)


def test_batches_smaller_than_the_number_of_processes_are_warned_of(data, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 4)
    _, lines = phases(data, POINTS)
    assert lines == ["WARNING: 4 processes share batches of 3: some are idle"]


def test_a_cache_that_is_too_small_for_one_process_is_off_for_all(data, tmp_path, monkeypatch):
    found, lines = phases(data, {**POINTS, "train_on": "maps"}, cache=FeatureCache(tmp_path))
    monkeypatch.setattr(processes, "total", lambda values: values + 1)  # another one says so
    found._switch_off_what_does_not_pay(found.val_reader, (), "maps")
    assert found.cache is None
    assert lines[-1].startswith("feature cache off: ")
