"""Training in stages, as in the paper: FCN-32s first, FCN-16s from it, FCN-8s from that.

Each stage is a run of its own, in a folder of its own: `32s`, `16s`, `8s`. Its new score layer starts at zero, the
rest from the stage before, so that it begins with that one's masks (Long, Shelhamer, Darrell, CVPR 2015, section
4.2).
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fullyconv import processes
from fullyconv.atomic import atomic_path
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.device import choose_device
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.progress import Progress, Silent
from fullyconv.settings import write_config
from fullyconv.train import TrainResult, train

__all__ = ["train_staged"]

STRIDES: tuple[Literal[32, 16, 8, 4], ...] = (32, 16, 8, 4)
"""Of the stages, as far as the finest stride that is asked for."""

LATER_LR = 0.1
"""The learning rate of all stages but the first, relative to it. The paper divides by 100, over far more steps."""


def train_staged(
    data: Dataset,
    out: str | Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> dict[int, TrainResult]:
    """Train an FCN stage by stage, from stride 32 down to `config.stride`.

    Where the encoder is trained, each stage goes on with that of the stage before.

    Args:
        data: As for `fullyconv.train.train`.
        out: A folder for the run folders of the stages.
        config: The settings of the first stage but for its stride; later ones learn at a tenth of its rates.
        resume: Go on with the stage that was interrupted.
        progress: Where to report; nowhere by default.
        options: Others of `fullyconv.train.train`.

    Returns:
        What each stage leaves, by its stride.

    Raises:
        UsageError: Another decoder than `fcn`; or as `fullyconv.train.train`.
    """
    if config.decoder != "fcn" or config.stride is None:
        raise UsageError(
            f"stages are those of the paper's FCN, got decoder {config.decoder}", hint="add --decoder fcn"
        )
    out = Path(out)
    results: dict[int, TrainResult] = {}
    before: Path | None = None
    with processes.joined(choose_device(config.device)):
        progress = progress if progress and processes.is_first() else Silent()
        if not resume and processes.is_first():
            _begin(out, config)
        for stride in (step for step in STRIDES if step >= config.stride):
            folder = out / f"{stride}s"
            progress.say(f"stage FCN-{stride}s, in {folder}")
            stage = replace(config, stride=stride) if before is None else _later(config, stride, before)
            # As the first process finds it: for the others it may have begun the stage already.
            begun = resume and bool(processes.text_of_first("begun" * (folder / "config.toml").exists()))
            how = {"resume": begun, "start_from": None if begun else before, "progress": progress, **options}
            try:
                results[stride] = train(data, folder, stage, **how)
            except FullyConvError:
                if before is None and not folder.joinpath("config.toml").exists() and processes.is_first():
                    _give_up(out)  # The next try may have the same folder.
                raise
            before = results[stride].model
    return results


def _begin(folder: Path, config: TrainConfig) -> None:
    """Make the folder, with the settings in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "give --resume to go on with it, or another folder with -o"
        raise UsageError(f"the folder {folder} is there already and is not empty", hint=hint)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "config.toml") as temporary:
        write_config(config, temporary)


def _give_up(folder: Path) -> None:
    """Remove what a staged training leaves that was refused before it had learned anything."""
    (folder / "config.toml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Whatever else is in there stays.
        (folder / f"{STRIDES[0]}s").rmdir()


def _later(config: TrainConfig, stride: Literal[32, 16, 8, 4], before: Path) -> TrainConfig:
    """The settings of a stage that goes on from a model."""
    rates: dict[str, Any] = {"lr": LATER_LR * config.lr}
    if config.train_encoder != "none":
        rates |= {"tune_lr": LATER_LR * config.tune_lr, "encoder_lr": LATER_LR * config.encoder_lr}
        rates["encoder_weights"] = str(before.absolute())
    return replace(config, stride=stride, **rates)
