"""One training from its first line to its last: what the loop needs, the loop, and what it leaves."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fullyconv.batches import MapBatch, MapBatches, PointBatch, PointBatches, step_loss
from fullyconv.charts import curves
from fullyconv.check import DataSummary, refuse_unlabelled
from fullyconv.checkpoint import save_checkpoint
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.decoder import take_over
from fullyconv.device import choose_device, choose_precision, seed_everything
from fullyconv.discriminant import fit_decoder, model_sums
from fullyconv.errors import TrainingError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.findings import examine
from fullyconv.image_form import shown
from fullyconv.losses import balanced_weights
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.model import build_model
from fullyconv.model_file import load_model, save_model
from fullyconv.pictures import save_picture, validation_panel
from fullyconv.progress import duration
from fullyconv.run_folder import RunFolder
from fullyconv.trackers import Trackers
from fullyconv.transforms import PLAIN, View, make_views
from fullyconv.upsample import predict_mask

__all__ = ["Session", "TrainResult", "one_cycle"]

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
    """One training from its first line to its last: the parts that the loop needs, made once."""

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
        self.device = choose_device(config.device)
        for note in splits["train"].notes:
            run.say(note)
        self.summaries = self._examined()
        self.table = splits["train"].class_table
        seed_everything(config.seed)
        self.model = build_model(config, self.table).to(self.device)
        if start_from is not None:
            taken, of = take_over(self.model.decoder, load_model(Path(start_from)).decoder)
            run.say(f"started from another model: {taken} of {of} decoder tensors taken over")
        self.model.encoder.set_precision(choose_precision(config.precision, self.device))
        self.encoder_digest = self.model.encoder.digest()
        self.decoder = self.model.decoder
        self.identity = json.loads(
            json.dumps({"config": asdict(config), "encoder": self.encoder_digest, "classes": self.table.to_json()})
        )
        self.weights = self._class_weights(self.summaries["train"])
        self.cache = cache
        self.reader = FeatureReader(self.model.encoder, splits["train"], self.cache)
        self.val_reader = FeatureReader(self.model.encoder, splits["val"], self.cache)
        self.batches = self._batches()
        # The closed form is a run of one epoch that has one step.
        self.epochs = 1 if config.instant else max(config.epochs, math.ceil(config.steps / len(self.batches)))
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=False,
            foreach=False,
        )

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

    def fit(self, state: dict[str, Any] | None) -> TrainResult:
        """Run the epochs that are left, then write curves, pictures and the last model."""
        history: list[dict[str, Any]] = []
        if state is not None:
            if state["run"] != self.identity:
                raise UsageError(
                    f"the checkpoint in {self.run.checkpoint} is of another run", hint="start a new run"
                )
            self.decoder.load_state_dict(state["decoder"])
            self.optimizer.load_state_dict(state["optimizer"])
            history = state["history"]
            self.run.say(f"resuming after epoch {len(history)} of {self.epochs}")
        else:
            self._checkpoint(history)  # What --from gave is kept from the first moment on.
        best = max((row["mean_iou"] for row in history), default=-1.0) if self.run.best.exists() else -1.0
        for epoch in range(len(history), self.epochs):
            if self._exhausted(history):
                self.run.say(f"val mean IoU has not risen for {self.config.patience} epochs: stopping early")
                break
            history.append(self._epoch(epoch))
            if history[-1]["mean_iou"] > best:
                best = history[-1]["mean_iou"]
                self._save(self.run.best, history)
            self.run.write_metrics(history)
            self.trackers.epoch(epoch + 1, history[-1])
            self._checkpoint(history)
        self._save(self.run.last, history)
        if self.model.encoder.digest() != self.encoder_digest:
            raise TrainingError("the fixed encoder has changed during training")
        return self._finish(history)

    def _checkpoint(self, history: list[dict[str, Any]]) -> None:
        """Keep what the next epoch needs; everything drawn at random follows from the seed and its number."""
        state = {
            "run": self.identity,
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": history,
        }
        save_checkpoint(self.run.checkpoint, state, epoch=len(history))

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch and measure it on the val split."""
        start = time.perf_counter()
        seed_everything(self.config.seed, epoch + 1)
        loss = self._solve() if self.config.instant else self._steps(epoch)
        trained = time.perf_counter() - start
        report = self._validate()
        seconds = time.perf_counter() - start
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "mean_iou": report.mean_iou,
            "pixel_accuracy": report.pixel_accuracy,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 3),
        }
        self._say_epoch(row, trained)
        return row

    def _steps(self, epoch: int) -> float:
        """Take the steps of an epoch and return the mean of their losses."""
        self.model.train()
        total, steps = 0.0, 0
        with self.run.track(f"epoch {epoch + 1} of {self.epochs}", len(self.batches)) as tick:
            batches: Iterator[PointBatch | MapBatch] = self.batches.epoch(epoch)
            for index, batch in enumerate(batches):
                done = (epoch * len(self.batches) + index) / (self.epochs * len(self.batches))
                rate = one_cycle(done) if self.config.schedule == "one_cycle" else 1.0
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr * rate
                total += self._step(batch)
                steps += 1
                tick()
        if steps == 0:
            raise TrainingError("not one crop of the epoch had a labelled pixel", hint="use larger crops")
        return total / steps

    @torch.no_grad()
    def _solve(self) -> float:
        """Solve the decoder in closed form instead, keep the sums, and return the loss at the points."""
        drawn = cast(PointBatches, self.batches)
        sums = model_sums(self.model, drawn.points, drawn.targets, drawn.shares)
        sums.save(self.run.sums, overwrite=True)
        fit_decoder(self.decoder.eval(), sums, balance=self.config.balance)
        self.optimizer.param_groups[0]["lr"] = 0.0  # No step was taken.
        losses = [step_loss(self.decoder, batch, self.config.loss, self.weights) for batch in drawn.epoch(0)]
        return float(torch.stack(losses).mean())

    def _say_epoch(self, row: Mapping[str, Any], trained: float) -> None:
        """Report an epoch in one line, and how long the rest will take."""
        left = self.epochs - row["epoch"]
        rest = f", about {duration(left * row['seconds'])} left" if left else ""
        times = f"{duration(trained)} + {duration(row['seconds'] - trained)} val{rest}"
        self.run.say(
            f"epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4f}  val mean IoU {row['mean_iou']:.4f}"
            f"  pixel accuracy {row['pixel_accuracy']:.4f}  ({times})"
        )
        if self.batches.skipped:
            self.run.say(f"{self.batches.skipped} crops without a labelled pixel skipped so far")

    def _step(self, batch: PointBatch | MapBatch) -> float:
        """Take one step of the optimiser and return the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = step_loss(self.decoder, batch, self.config.loss, self.weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}", hint="lower --lr; the best model so far is kept")
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    @torch.no_grad()
    def _validate(self) -> Report:
        """Measure the val split at original label size."""
        self.model.eval()
        matrix = ConfusionMatrix(self.table.num_classes)
        for prediction, target in self._predictions():
            matrix.update(target, prediction)
        return matrix.report(self.table.names)

    @torch.no_grad()
    def _predictions(self) -> Iterator[tuple[Any, Any]]:
        """Yield (prediction, target) of each val sample, from its cached features."""
        val = self.splits["val"]
        for sample, maps_of_sample in zip(
            val, self.val_reader.all_maps((sample, PLAIN) for sample in val), strict=True
        ):
            target = self.val_reader.target(sample)
            features = [maps.to(self.device).float() for maps in maps_of_sample]
            logits = self.model.logits(features, target.shape)
            yield predict_mask(logits, self.decoder.output_stride, target.shape)[0].cpu().numpy(), target

    def _batches(self) -> PointBatches | MapBatches:
        """Read the features of the train split, and say what that costs and saves."""
        config, dataset = self.config, self.splits["train"]
        views = make_views(config.mirror, config.view_scales, config.colour_views)
        self._switch_off_what_does_not_pay(views)
        start = time.perf_counter()
        batches: PointBatches | MapBatches
        if config.train_on == "points":
            batches = PointBatches(
                self.reader,
                dataset,
                views,
                output_stride=self.decoder.output_stride,
                count=config.pixels,
                size=config.batch * config.pixels,
                seed=config.seed,
                progress=self.run,
            )
            kept = f"{len(batches.targets)} points"
        else:
            batches = MapBatches(
                self.reader,
                dataset,
                views,
                decoder=self.decoder,
                sizes=list(self.summaries["train"].sizes),
                crop=config.crop,
                count=config.pixels,
                batch=config.batch,
                seed=config.seed,
                steps=config.epoch_steps,
            )
            batches.read_ahead(self.run)
            kept = "maps"
        cost = duration(time.perf_counter() - start)
        if self.reader.cache is not None or config.train_on == "points":
            count = len(dataset) * len(views)
            self.run.say(f"features of {count} views read once in {cost} ({kept}); every epoch saves as much")
        else:
            self.run.say("features are computed anew in every epoch")
        if self.cache is not None and self.cache.failure:
            self.run.say(f"feature cache off: {self.cache.failure}")
        if self.cache is not None and self.cache.damaged:
            self.run.say(f"feature cache: {self.cache.damaged} damaged entries were computed anew")
        return batches

    def _switch_off_what_does_not_pay(self, views: Sequence[View]) -> None:
        """Leave the cache out where it could not hold the maps that the run reads again and again."""
        if self.cache is None:
            return
        sizes = list(self.summaries["val"].sizes)
        if self.config.train_on == "maps":
            sizes += [view.size(size) for size in self.summaries["train"].sizes for view in views]
        needed = sum(self.reader.map_bytes(size) for size in sizes)
        if needed > self.cache.limit:
            self.run.say(
                f"feature cache off: the maps of this run would take {needed / 1e9:.1f} GB, "
                f"the cache may hold {self.cache.limit / 1e9:.1f} GB"
            )
            self.cache = self.reader.cache = self.val_reader.cache = None

    def _class_weights(self, summary: DataSummary) -> Tensor | None:
        if not self.config.balance:
            return None
        counts = torch.from_numpy(summary.pixel_counts)
        return balanced_weights(counts, self.config.balance).to(self.device)

    def _exhausted(self, history: list[dict[str, Any]]) -> bool:
        if not history or not self.config.patience:
            return False
        best = max(range(len(history)), key=lambda index: history[index]["mean_iou"])
        return len(history) - 1 - best >= self.config.patience

    def _save(self, path: Path, history: list[dict[str, Any]]) -> None:
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
        self.model.load_state_dict(load_model(self.run.best).state_dict())
        report = self._validate()
        save_picture(curves(history), self.run.path / "curves.png")
        save_picture(self._panel(), self.run.path / "validation.png")
        self.trackers.finish([self.run.path / "curves.png", self.run.path / "validation.png"])
        return TrainResult(self.run.path, self.run.best, report, history)

    def _panel(self) -> Any:
        """Draw a few validation samples, spread over the split: image, target, prediction, overlay."""
        val = self.splits["val"]
        chosen = {round(index * (len(val) - 1) / max(1, PANEL_ROWS - 1)) for index in range(PANEL_ROWS)}
        rows = [
            (shown(self.val_reader.image(val[index])), target, prediction)
            for index, (prediction, target) in enumerate(self._predictions())
            if index in chosen
        ]
        return validation_panel(rows, self.table)


def one_cycle(position: float) -> float:
    """The one-cycle schedule: from 1/25 up to 1 in the first 30 %, then down to nearly 0 along cosines.

    Args:
        position: Share of all steps that are done, in [0, 1].

    Returns:
        The factor of the highest learning rate.
    """
    if position < 0.3:
        low, high, share = 1 / 25, 1.0, position / 0.3
    else:
        low, high, share = 1.0, 1e-4, (position - 0.3) / 0.7
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
