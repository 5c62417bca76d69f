"""One training from its first line to its last: what the loop needs, the loop, and what it leaves."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fullyconv.batches import MapBatches, PointBatches, step_loss
from fullyconv.charts import curves
from fullyconv.check import DataSummary, refuse_unlabelled
from fullyconv.checkpoint import save_checkpoint
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.decoder import Decoder, take_over
from fullyconv.device import choose_device, choose_precision, seed_everything
from fullyconv.discriminant import fit_decoder, model_sums
from fullyconv.encoder import tensors_digest
from fullyconv.errors import TrainingError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.findings import examine
from fullyconv.image_batches import ImageBatches
from fullyconv.image_form import shown
from fullyconv.losses import balanced_weights
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.model import build_model
from fullyconv.model_file import load_model, save_model
from fullyconv.phase import Phase
from fullyconv.pictures import save_picture, validation_panel
from fullyconv.progress import duration
from fullyconv.run_folder import RunFolder
from fullyconv.trackers import Trackers
from fullyconv.trained_part import TrainedPart
from fullyconv.transforms import PLAIN, View, make_views
from fullyconv.upsample import predict_mask

__all__ = ["Session", "TrainResult"]

STEEPEST = 10.0
"""Learning rate of a mean loss, with the momentum counted in, beyond which nothing is learned."""

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

    First the decoder learns from features that are computed once. Where the encoder is to be trained, a second
    phase goes on from the best model of the first.
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
        self.device = choose_device(config.device)
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
        self.weights = self._class_weights(self.summaries["train"])
        self.cache = cache
        self.val_reader = FeatureReader(self.model.encoder, splits["val"], self.cache)
        self.phases = [self._open_fixed] if config.epochs else []
        self._refuse_steep_sum()
        if config.train_encoder != "none":
            self.phases.append(self._open_tuning)

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
        for number in range(first, len(self.phases)):
            if number != first:
                begun = len(history)
                self.model.load_state_dict(load_model(self.run.best).state_dict())
            self.phase = self.phases[number]()
            if state is not None and number == first:
                self.phase.load(state["training"])
                self.run.say(f"resuming after epoch {len(history) - begun} of {self.phase.epochs}")
            else:
                self._checkpoint(history, number, begun)  # What --from gave is kept from the first moment on.
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
            seed_everything(self.config.seed, len(history) + 1)
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
        sums.save(self.run.sums, overwrite=True)
        fit_decoder(self.decoder.eval(), sums, balance=self.config.balance)
        losses = [step_loss(self.decoder, batch, self.config.loss, self.weights) for batch in drawn.epoch(0)]
        return float(torch.stack(losses).mean())

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

    def _open_fixed(self) -> Phase:
        """Begin the training of the decoder on features of the fixed encoder."""
        config, reader = self.config, FeatureReader(self.model.encoder, self.splits["train"], self.cache)
        batches = self._feature_batches(reader, self.decoder, config.train_on, config.pixels)
        return Phase(config, self.decoder, batches, self.weights, lr=config.lr, epochs=config.epochs)

    def _open_tuning(self) -> Phase:
        """Begin the training of layers of the encoder together with the decoder."""
        config, dataset, encoder = self.config, self.splits["train"], self.model.encoder
        stride = None if config.train_encoder == "all" else config.train_encoder
        part = TrainedPart(
            encoder,
            self.decoder,
            cast(int | None, stride),
            live_statistics=config.live_statistics,
            compiled=config.compile,
        )
        trained = sum(weight.numel() for weight in part.layers.parameters())
        self.run.say(f"from now on {trained:,} weights of the encoder are trained, too")
        batches: MapBatches | PointBatches | ImageBatches
        if part.front is None:
            batches = ImageBatches(
                FeatureReader(encoder, dataset),
                dataset,
                list(self.summaries["train"].sizes),
                mirror=config.mirror,
                scales=cast(tuple[float, float], config.tune_scales or (1.0, 1.0)),
                colours=config.tune_colours,
                crop=config.crop,
                batch=config.batch,
                seed=config.seed,
                steps=config.epoch_steps,
            )
        else:
            batches = self._feature_batches(FeatureReader(part.front, dataset, self.cache), part, "maps", 0)
        # Its features change from now on: no cache holds them.
        self.val_reader = FeatureReader(encoder, self.splits["val"])
        if "fine-tuned" not in encoder.network.weights_source:
            encoder.network.weights_source += ", fine-tuned"
        return Phase(config, part, batches, self.weights, lr=config.tune_lr, epochs=config.tune_epochs)

    def _feature_batches(
        self, reader: FeatureReader, part: Decoder, train_on: str, pixels: int
    ) -> PointBatches | MapBatches:
        """Read the features of the train split, and say what that costs and saves."""
        config, dataset = self.config, self.splits["train"]
        views = make_views(config.mirror, config.view_scales, config.colour_views)
        self._switch_off_what_does_not_pay(reader, views, train_on)
        start = time.perf_counter()
        batches: PointBatches | MapBatches
        if train_on == "points":
            batches = PointBatches(
                reader,
                dataset,
                views,
                output_stride=part.output_stride,
                count=pixels,
                size=config.batch * pixels,
                seed=config.seed,
                progress=self.run,
            )
            kept = f"{len(batches.targets)} points"
        else:
            batches = MapBatches(
                reader,
                dataset,
                views,
                decoder=part,
                sizes=list(self.summaries["train"].sizes),
                crop=config.crop,
                count=pixels,
                batch=config.batch,
                seed=config.seed,
                steps=config.epoch_steps,
            )
            batches.read_ahead(self.run)
            kept = "maps"
        cost = duration(time.perf_counter() - start)
        if reader.cache is not None or train_on == "points":
            count = len(dataset) * len(views)
            self.run.say(f"features of {count} views read once in {cost} ({kept}); every epoch saves as much")
        else:
            self.run.say("features are computed anew in every epoch")
        if self.cache is not None and self.cache.failure:
            self.run.say(f"feature cache off: {self.cache.failure}")
        if self.cache is not None and self.cache.damaged:
            self.run.say(f"feature cache: {self.cache.damaged} damaged entries were computed anew")
        return batches

    def _switch_off_what_does_not_pay(self, reader: FeatureReader, views: Sequence[View], train_on: str) -> None:
        """Leave the cache out where it could not hold the maps that the run reads again and again."""
        if self.cache is None:
            return
        sizes = list(self.summaries["val"].sizes)
        if train_on == "maps":
            sizes += [view.size(size) for size in self.summaries["train"].sizes for view in views]
        needed = sum(reader.map_bytes(size) for size in sizes)
        if needed > self.cache.limit:
            self.run.say(
                f"feature cache off: the maps of this run would take {needed / 1e9:.1f} GB, "
                f"the cache may hold {self.cache.limit / 1e9:.1f} GB"
            )
            self.cache = reader.cache = self.val_reader.cache = None

    def _refuse_steep_sum(self) -> None:
        """Refuse rates with which a loss that is summed over the pixels of these images cannot be trained."""
        config = self.config
        if not config.summed_loss:
            return
        sizes = self.summaries["train"].sizes
        pixels = sum(height * width for height, width in sizes) / len(sizes)
        tuned = ("tune_lr", "encoder_lr") if config.train_encoder != "none" else ()
        for name in (*(("lr",) if config.epochs else ()), *tuned):
            rate = getattr(config, name)
            if rate * pixels / (1 - config.momentum) > STEEPEST:
                raise UsageError(
                    f"{name} {rate:g} on a loss summed over the {pixels:.0f} pixels of an image is like "
                    f"{rate * pixels:g} on their mean, with momentum {config.momentum:g}",
                    hint=f"divide it by the pixels ({name} {rate / pixels:.1g}), or leave --summed-loss out",
                )

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
