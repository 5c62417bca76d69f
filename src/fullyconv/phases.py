"""How the phases of a training begin: the features that they read, the part that they train.

First the decoder learns from features that are computed once. Where the encoder is to be trained, a second phase
goes on from the best model of the first.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fullyconv import processes
from fullyconv.check import DataSummary
from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.decoder import Decoder
from fullyconv.encoder import FINE_TUNED
from fullyconv.errors import UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.image_batches import ImageBatches
from fullyconv.losses import balanced_weights
from fullyconv.map_batches import MapBatches
from fullyconv.model import FCN
from fullyconv.phase import Phase
from fullyconv.point_batches import PointBatches
from fullyconv.progress import Progress, duration
from fullyconv.trained_part import TrainedPart
from fullyconv.transforms import View, make_views

__all__ = ["Phases"]

STEEPEST = 10.0
"""Learning rate of a mean loss, with the momentum counted in, beyond which nothing is learned."""


class Phases:
    """The phases of a training, in order.

    Args:
        config: The settings.
        model: What is trained, on its device.
        splits: The train and the val split.
        summaries: What the masks of each hold.
        cache: Where features are kept, or None.
        progress: Where to report.

    Attributes:
        openers: What begins each phase.
        val_reader: Reads the features of the val split; another one from the phase on in which the encoder is
            trained.
        weights: C float class weights with expectation 1, or None.

    Raises:
        UsageError: Learning rates with which nothing can be trained, or what several processes cannot do.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: FCN,
        splits: Mapping[str, Dataset],
        summaries: Mapping[str, DataSummary],
        cache: FeatureCache | None,
        progress: Progress,
    ) -> None:
        self.config, self.model, self.splits, self.summaries = config, model, splits, summaries
        self.cache, self.progress = cache, progress
        self.device = model.encoder.mean.device
        self.weights = self._class_weights(summaries["train"])
        self.val_reader = FeatureReader(model.encoder, splits["val"], cache)
        self.openers: list[Callable[[], Phase]] = [self._open_fixed] if config.epochs else []
        self._refuse_steep_sum()
        if config.train_encoder != "none":
            self.openers.append(self._open_tuning)
        if processes.several() and config.train_encoder != "none":
            self._refuse_norms_of_others()
        if processes.count() > config.batch:
            progress.say(f"WARNING: {processes.count()} processes share batches of {config.batch}: some are idle")

    def _open_fixed(self) -> Phase:
        """Begin the training of the decoder on features of the fixed encoder."""
        config, reader = self.config, FeatureReader(self.model.encoder, self.splits["train"], self.cache)
        batches = self._feature_batches(reader, self.model.decoder, config.train_on, config.pixels)
        return Phase(config, self.model.decoder, batches, self.weights, lr=config.lr, epochs=config.epochs)

    def _open_tuning(self) -> Phase:
        """Begin the training of layers of the encoder together with the decoder."""
        config, dataset, encoder = self.config, self.splits["train"], self.model.encoder
        stride = None if config.train_encoder == "all" else config.train_encoder
        part = TrainedPart(
            encoder,
            self.model.decoder,
            cast(int | None, stride),
            live_statistics=config.live_statistics,
            compiled=config.compile,
        )
        trained = sum(weight.numel() for weight in part.layers.parameters())
        self.progress.say(f"from now on {trained:,} weights of the encoder are trained, too")
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
        if encoder.network.state == "fixed":
            encoder.network.weights_source += FINE_TUNED
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
                progress=self.progress,
            )
            kept = f"{batches.count} points"
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
            batches.read_ahead(self.progress)
            kept = "maps"
        cost = duration(time.perf_counter() - start)
        if reader.cache is not None or train_on == "points":
            count = len(dataset) * len(views)
            self.progress.say(f"features of {count} views read once in {cost} ({kept}); every epoch saves as much")
        else:
            self.progress.say("features are computed anew in every epoch")
        if self.cache is not None and self.cache.failure:
            self.progress.say(f"feature cache off: {self.cache.failure}")
        if self.cache is not None and self.cache.damaged:
            self.progress.say(f"feature cache: {self.cache.damaged} damaged entries were computed anew")
        return batches

    def _switch_off_what_does_not_pay(self, reader: FeatureReader, views: Sequence[View], train_on: str) -> None:
        """Leave the cache out where it could not hold the maps that the run reads again and again."""
        if self.cache is None:
            return
        sizes = list(self.summaries["val"].sizes)
        if train_on == "maps":
            sizes += [view.size(size) for size in self.summaries["train"].sizes for view in views]
        needed = sum(reader.map_bytes(size) for size in sizes)
        # A limit may be that of the disk, and so another one on another machine: they all do the same.
        if int(processes.total(torch.tensor(int(needed > self.cache.limit)))):
            self.progress.say(
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
        if config.crop:
            pixels = min(pixels, config.crop**2)
        tuned = ("tune_lr", "encoder_lr") if config.train_encoder != "none" else ()
        for name in (*(("lr",) if config.epochs else ()), *tuned):
            rate = getattr(config, name)
            if rate * pixels / (1 - config.momentum) > STEEPEST:
                raise UsageError(
                    f"{name} {rate:g} on a loss summed over the {pixels:.0f} pixels of an image is like "
                    f"{rate * pixels:g} on their mean, with momentum {config.momentum:g}",
                    hint=f"divide it by the pixels ({name} {rate / pixels:.1g}), or leave --summed-loss out",
                )

    def _refuse_norms_of_others(self) -> None:
        """Refuse live statistics where they would be those of a process's share of a batch."""
        if not self.config.live_statistics:
            return
        if self.config.compile:
            raise UsageError(
                "several processes compile no layers with live statistics", hint="leave --compile out"
            )
        for name, module in self.model.encoder.network.named_modules():
            if isinstance(module, _BatchNorm):
                raise UsageError(
                    f"several processes keep the statistics of encoder {self.model.encoder.network.name} fixed: "
                    f"{name} is a batch norm of its own library",
                    hint="leave --live-statistics out, or train in one process",
                )

    def _class_weights(self, summary: DataSummary) -> Tensor | None:
        if not self.config.balance:
            return None
        counts = torch.from_numpy(summary.pixel_counts)
        return balanced_weights(counts, self.config.balance).to(self.device)
