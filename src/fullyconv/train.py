"""The loop: a folder of images and masks in, a trained, measured model out."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fullyconv import processes
from fullyconv.checkpoint import load_newest, of_first
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.device import choose_device, set_threads
from fullyconv.encoders import fetch_pretrained
from fullyconv.errors import DataError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.model_file import read_description
from fullyconv.progress import Progress, Silent
from fullyconv.run_folder import Follower, RunFolder
from fullyconv.session import Session, TrainResult
from fullyconv.trackers import Tracker, Trackers

__all__ = ["TrainResult", "splits_of", "train"]


def train(
    data: Dataset,
    out: str | Path,
    config: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    cache: FeatureCache | None = None,
    use_cache: bool = True,
    offline: bool = False,
    progress: Progress | None = None,
    trackers: Sequence[Tracker] = (),
) -> TrainResult:
    """Train an FCN on a data set's train split and keep the best epoch on its val split.

    Where `torchrun` has started several processes (`fullyconv.processes`), each has to call this alike: they train
    one model, which the first one writes. All of them get the same report.

    Args:
        data: Opened with the same `ignore` and `classes` as the settings say; split by `config.val_fraction`
            where it has no val split.
        out: The run folder; must not hold anything unless `resume`.
        config: The settings.
        resume: Go on from the newest checkpoint in `out`; ends in the same bits as a run never interrupted.
        start_from: A model file whose decoder weights to start from, where names and shapes agree.
        cache: Where features are kept; the user's feature cache by default.
        use_cache: False computes the same features without keeping them on disk.
        offline: Download nothing: pretrained weights have to be on this machine.
        progress: Where to report; nowhere by default.
        trackers: Where to follow it, too (`fullyconv.trackers`).

    Raises:
        DataError: Something is wrong with an image or mask; found before the first epoch.
        UsageError: Settings that do not fit each other, the data or the run folder.
        ModelFileError: What to start from is missing, damaged or no model file.
        WeightsError: The encoder's weights are missing, cannot be downloaded, are damaged or of another network.
        TrainingError: The loss is not finite any more, or another process has ended.
    """
    if start_from is not None:
        _check_start(config, start_from)
    with processes.joined(choose_device(config.device)):
        first = processes.is_first()
        say = progress or Silent()
        run = RunFolder(Path(out), resume=resume, progress=say) if first else Follower(Path(out))
        set_threads(config.threads)
        if use_cache and cache is None:
            cache = FeatureCache()
        with run.held(resumed=resume):
            splits = splits_of(data, config, run if resume and first else None)
            if config.encoder_weights == "pretrained":
                # Before there is anything to resume: after Ctrl-C the same command goes on with the download.
                with processes.one_after_another():
                    fetch_pretrained(config.encoder, offline=offline, progress=run)
            if not resume:
                run.write_start(config, splits, Path(start_from) if start_from is not None else None)
            state = of_first(load_newest(run.checkpoint, report=run.say) if first else None) if resume else None
            if state is None and start_from is None and run.start.exists():
                start_from = run.start  # The run was interrupted before its first checkpoint.
            followed = Trackers(trackers if first else (), run.say)
            followed.start(run.path, json.loads(json.dumps(asdict(config))), len(state["history"]) if state else 0)
            try:
                session = Session(run, config, splits, cache if use_cache else None, start_from, followed)
                return session.fit(state)
            except BaseException:
                followed.stop()
                raise


def _check_start(config: TrainConfig, path: str | Path) -> None:
    """Refuse what is no start, before there is a folder."""
    if config.instant:
        raise UsageError("the closed form starts from nothing, got a model to start from", hint="leave --from out")
    read_description(path)


def splits_of(data: Dataset, config: TrainConfig, resumed: RunFolder | None = None) -> dict[str, Dataset]:
    """Return the train and val splits: the data set's, a seeded one, or those of the run that goes on."""
    if not data.has_split("val"):
        data = data.with_seeded_split(config.val_fraction, config.seed)
    splits = {name: data.split(name) for name in ("train", "val")}
    if resumed:
        now = {sample.id: name for name, dataset in splits.items() for sample in dataset}
        if now != resumed.read_split():
            raise DataError(
                f"the samples of {data.root} are not those with which the run in {resumed.path} began",
                hint="restore the data, or start a new run",
            )
    return splits
