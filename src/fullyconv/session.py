"""One training from its first line to its last: what the loop needs, the loop, and what it leaves."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from fullyconv import processes
from fullyconv.batches import step_loss
from fullyconv.charts import curves
from fullyconv.check import DataSummary, refuse_unlabelled
from fullyconv.checkpoint import save_checkpoint
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset, Sample
from fullyconv.decoder import take_over
from fullyconv.device import choose_device, choose_precision, move, seed_everything
from fullyconv.discriminant import Sums, fit_decoder, model_sums
from fullyconv.encoder import tensors_digest
from fullyconv.errors import TrainingError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.findings import examine
from fullyconv.image_form import shown
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.model import build_model
from fullyconv.model_file import load_model, save_model
from fullyconv.phases import Phases
from fullyconv.pictures import save_picture, validation_panel
from fullyconv.point_batches import PointBatches
from fullyconv.progress import duration
from fullyconv.run_folder import RunFolder
from fullyconv.trackers import Trackers
from fullyconv.transforms import PLAIN
from fullyconv.upsample import predict_mask

__all__ = ["Session", "TrainResult"]

PANEL_ROWS = 4
"""Validation samples shown in validation.png."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes:
        run: The run folder.
        model: Path of the best model file.
        report: How the best model does on the validation split.
        history: One mapping an epoch: epoch, loss, mean_iou, pixel_accuracy, lr, seconds.
    """

    run: Path
    model: Path
    report: Report
    history: list[dict[str, Any]]


class Session:
    """One training from its first line to its last: the parts that the loop needs, made once.

    Of several processes (`fullyconv.processes`) each has one, and takes its share of the steps and of the val
    split; only the first one writes.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        splits: Mapping[str, Dataset],
        cache: FeatureCache | None,
        start_from: str | Path | None,
        trackers: Trackers,
    ) -> None:
        self.run, self.config, self.splits, self.trackers = run, config, splits, trackers
        self.device = processes.own_device(choose_device(config.device))
        for note in splits["train"].notes:
            run.say(note)
        self.summaries = self._examined()
        self.table = splits["train"].class_table
        seed_everything(config.seed)
        self.model = build_model(config, self.table).to(self.device)
        if start_from is not None:
            self._start_from(Path(start_from))
        self.model.encoder.set_precision(choose_precision(config.precision, self.device))
        self.encoder_digest = self.model.encoder.digest()
        self.decoder = self.model.decoder
        self.identity = json.loads(
            json.dumps({"config": asdict(config), "encoder": self.encoder_digest, "classes": self.table.to_json()})
        )
        self._refuse_unlike()
        self.phases = Phases(config, self.model, splits, self.summaries, cache, run)

    def _start_from(self, path: Path) -> None:
        """Take over what fits of the decoder of another model."""
        other = load_model(path)
        taken, of = take_over(self.model.decoder, other.decoder)
        self.run.say(f"started from another model: {taken} of {of} decoder tensors taken over")
        ours, theirs = self.model.encoder.network, other.encoder.network
        if ours.name == theirs.name and tensors_digest(ours.state_dict()) != tensors_digest(theirs.state_dict()):
            self.run.say(f"WARNING: its encoder has other weights; to take them, too: --encoder-weights {path}")

    def _examined(self) -> dict[str, DataSummary]:
        """Look at all images and masks, refuse what cannot be trained on, and say the rest."""
        samples = tuple(sample for dataset in self.splits.values() for sample in dataset)
        found = examine(replace(self.splits["train"], samples=samples), strict=True)
        for name, dataset in self.splits.items():
            refuse_unlabelled(found.summaries[name], dataset)
        for line in found.summaries["train"].lines():
            self.run.say(line)
        for finding in found.findings:
            if finding.level != "note":
                self.run.say(f"WARNING: {str(finding).partition(': ')[2]}")
        return found.summaries

    def _refuse_unlike(self) -> None:
        """Refuse to train together with a process that was started for something else."""
        ids = {name: [sample.id for sample in dataset] for name, dataset in self.splits.items()}
        # What a machine may have of its own: its path to the class table, its threads.
        own = {**self.identity["config"], "classes": None, "threads": None}
        text = json.dumps([{**self.identity, "config": own}, ids])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if processes.text_of_first(digest) != digest:
            raise UsageError(
                f"process {processes.rank()} has other settings, samples or encoder weights than process 0",
                hint="start the same command with the same data on each machine",
            )

    def fit(self, state: dict[str, Any] | None) -> TrainResult:
        """Run the epochs that are left, then write curves, pictures and the last model."""
        history: list[dict[str, Any]] = []
        first, begun = 0, 0
        if state is not None:
            if state["run"] != self.identity:
                raise UsageError(
                    f"the checkpoint in {self.run.checkpoint} is of another run", hint="start a new run"
                )
            history, first, begun = state["history"], state["phase"], state["begun"]
        for number in range(first, len(self.phases.openers)):
            if number != first:
                begun = len(history)
                self._take_best()
            self.phase = self.phases.openers[number]()
            if state is not None and number == first:
                self.phase.load(state["training"])
                self.run.say(f"resuming after epoch {len(history) - begun} of {self.phase.epochs}")
            else:
                self._checkpoint(history, number, begun)
                if processes.is_first():
                    self.run.start.unlink(missing_ok=True)  # What --from gave is in the checkpoint now.
            self._run_phase(history, number, begun)
        with self.phase.averaged():
            self._save(self.run.last, history)
        if self.config.train_encoder == "none" and self.model.encoder.digest() != self.encoder_digest:
            raise TrainingError("the fixed encoder has changed during training")
        return self._finish(history)

    def _run_phase(self, history: list[dict[str, Any]], number: int, begun: int) -> None:
        """Run the epochs of a phase that are left; the history of the phase begins at `begun`."""
        best = max((row["mean_iou"] for row in history), default=-1.0) if self.run.best.exists() else -1.0
        for epoch in range(len(history) - begun, self.phase.epochs):
            if self._exhausted(history[begun:]):
                self.run.say(f"val mean IoU has not risen for {self.config.patience} epochs: stopping early")
                break
            start = time.perf_counter()
            # What else is drawn, such as dropout, has to differ between the shares of a step.
            seed_everything(self.config.seed, len(history) + 1, *([processes.rank()] if processes.rank() else []))
            loss = self._solve() if self.config.instant else self._steps(epoch)
            trained = time.perf_counter() - start
            with self.phase.averaged():
                history.append(self._measured(len(history) + 1, loss, start))
                self._say_epoch(history[-1], epoch, trained)
                if history[-1]["mean_iou"] > best:
                    best = history[-1]["mean_iou"]
                    self._save(self.run.best, history)
            self.run.write_metrics(history)
            self.trackers.epoch(len(history), history[-1])
            self._checkpoint(history, number, begun)

    def _checkpoint(self, history: list[dict[str, Any]], number: int, begun: int) -> None:
        """Keep what the next epoch needs; everything drawn at random follows from the seed and its number."""
        if not processes.is_first():
            return
        state = {
            "run": self.identity,
            "phase": number,
            "begun": begun,
            "training": self.phase.state(),
            "history": history,
        }
        save_checkpoint(self.run.checkpoint, state, epoch=len(history) + number)

    def _measured(self, epoch: int, loss: float, start: float) -> dict[str, Any]:
        """Measure an epoch, begun at `start`, on the val split: its line of the history."""
        report = self._validate()
        return {
            "epoch": epoch,
            "loss": loss,
            "mean_iou": report.mean_iou,
            "pixel_accuracy": report.pixel_accuracy,
            "lr": 0.0 if self.config.instant else self.phase.lr,  # No step was taken.
            "seconds": round(time.perf_counter() - start, 3),
        }

    def _steps(self, epoch: int) -> float:
        """Take the steps of an epoch and return the mean of their losses."""
        label = f"epoch {epoch + 1} of {self.phase.epochs}"
        with self.run.track(label, len(self.phase.batches)) as tick:
            return self.phase.run_epoch(epoch, tick)

    @torch.no_grad()
    def _solve(self) -> float:
        """Solve the decoder in closed form instead, keep the sums, and return the loss at the points."""
        drawn = cast(PointBatches, self.phase.batches)
        sums = model_sums(self.model, drawn.points, drawn.targets, drawn.shares)
        # Integers: the shares of several processes add up to the same bits.
        counts, shares, totals, gram = map(processes.total, (sums.counts, sums.shares, sums.totals, sums.gram))
        sums = Sums(counts, shares, totals, gram, sums.basis)
        if processes.is_first():
            sums.save(self.run.sums, overwrite=True)
        fit_decoder(self.decoder.eval(), sums, balance=self.config.balance)
        how = self.config.loss, self.phases.weights
        losses = [step_loss(self.decoder, batch, *how) for batch in drawn.epoch(0)]
        return float(processes.total(torch.stack(losses)).mean())

    def _say_epoch(self, row: Mapping[str, Any], epoch: int, trained: float) -> None:
        """Report an epoch of this phase in one line, and how long the rest of it will take."""
        left = self.phase.epochs - epoch - 1
        rest = f", about {duration(left * row['seconds'])} left" if left else ""
        times = f"{duration(trained)} + {duration(row['seconds'] - trained)} val{rest}"
        self.run.say(
            f"epoch {epoch + 1}/{self.phase.epochs}  loss {row['loss']:.4f}  val mean IoU {row['mean_iou']:.4f}"
            f"  pixel accuracy {row['pixel_accuracy']:.4f}  ({times})"
        )
        if self.phase.batches.skipped:
            self.run.say(f"{self.phase.batches.skipped} crops without a labelled pixel skipped so far")

    @torch.no_grad()
    def _validate(self) -> Report:
        """Measure the val split at original label size."""
        self.model.eval()
        matrix = ConfusionMatrix(self.table.num_classes)
        for prediction, target in self._predictions(processes.share(list(self.splits["val"]))):
            matrix.update(target, prediction)
        return _merged(matrix).report(self.table.names)

    @torch.no_grad()
    def _predictions(self, samples: Sequence[Sample]) -> Iterator[tuple[Any, Any]]:
        """Yield (prediction, target) of each of some val samples, from its cached features."""
        reader = self.phases.val_reader
        for sample, maps_of_sample in zip(
            samples, reader.all_maps((sample, PLAIN) for sample in samples), strict=True
        ):
            target = reader.target(sample)
            features = [move(maps, self.device).float() for maps in maps_of_sample]
            logits = self.model.logits(features, target.shape)
            yield predict_mask(logits, self.decoder.output_stride, target.shape)[0].cpu().numpy(), target

    def _exhausted(self, history: list[dict[str, Any]]) -> bool:
        if not history or not self.config.patience:
            return False
        best = max(range(len(history)), key=lambda index: history[index]["mean_iou"])
        return len(history) - 1 - best >= self.config.patience

    def _take_best(self) -> None:
        """Go on from the best model, which the first process has: the others may be on machines of their own."""
        best = load_model(self.run.best).to(self.device) if processes.is_first() else self.model
        self.model.load_state_dict(processes.of_first(best.state_dict()))

    def _save(self, path: Path, history: list[dict[str, Any]]) -> None:
        if not processes.is_first():
            return
        last = history[-1]
        # No paths in a model file: the class table and the source of the weights are in it anyway.
        private = ("classes", "device", "encoder_weights")
        self.model.training_record = {
            "config": {
                **{name: value for name, value in asdict(self.config).items() if name not in private},
                "encoder": self.model.encoder.network.name,  # of cae:FILE without the file
            },
            "epoch": last["epoch"],
            "val_mean_iou": last["mean_iou"],
            "train_images": len(self.splits["train"]),
            "val_images": len(self.splits["val"]),
            "torch": torch.__version__,
            "precision": str(self.model.encoder.precision).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        save_model(self.model, path, overwrite=True)

    def _finish(self, history: list[dict[str, Any]]) -> TrainResult:
        """Measure the best model once more and draw the pictures."""
        self._take_best()
        report = self._validate()
        if processes.is_first():
            save_picture(curves(history), self.run.path / "curves.png")
            save_picture(self._panel(), self.run.path / "validation.png")
        self.trackers.finish([self.run.path / "curves.png", self.run.path / "validation.png"])
        return TrainResult(self.run.path, self.run.best, report, history)

    def _panel(self) -> Any:
        """Draw a few validation samples, spread over the split: image, target, prediction, overlay."""
        val = self.splits["val"]
        places = {round(index * (len(val) - 1) / max(1, PANEL_ROWS - 1)) for index in range(PANEL_ROWS)}
        chosen = [val[place] for place in sorted(places)]
        rows = [
            (shown(self.phases.val_reader.image(sample)), target, prediction)
            for sample, (prediction, target) in zip(chosen, self._predictions(chosen), strict=True)
        ]
        return validation_panel(rows, self.table)


def _merged(matrix: ConfusionMatrix) -> ConfusionMatrix:
    """Put together what all processes have counted: every number is that of one process."""
    whole = ConfusionMatrix(matrix.num_classes)
    whole.counts = processes.total(torch.from_numpy(matrix.counts)).numpy()
    whole.image_ious = processes.gathered(torch.tensor(matrix.image_ious, dtype=torch.float64)).tolist()
    whole.images, whole.ignored_pixels = processes.total(
        torch.tensor([matrix.images, matrix.ignored_pixels])
    ).tolist()
    return whole
