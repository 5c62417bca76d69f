"""A phase of a training: one part of the network, the batches that it learns from, optimiser and schedule."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fullyconv import processes
from fullyconv.batches import MapBatch, PointBatch, step_loss
from fullyconv.config import TrainConfig
from fullyconv.decoder import Decoder
from fullyconv.errors import TrainingError
from fullyconv.image_batches import ImageBatches
from fullyconv.map_batches import MapBatches
from fullyconv.point_batches import PointBatches
from fullyconv.trained_part import TrainedPart

__all__ = ["Phase", "one_cycle", "poly"]


class Phase:
    """The epochs in which one part of the network is trained.

    Several processes (`fullyconv.processes`) take the same steps: each adds the gradient of its share.

    Args:
        config: The settings: optimiser, schedule, loss, accumulation, clipping, averaging.
        part: What is trained: the decoder, or with layers of the encoder a `TrainedPart`.
        batches: What it learns from.
        weights: C float class weights with expectation 1, or None.
        lr: The highest learning rate of the decoder.
        epochs: At least so many; more where they have fewer steps than `config.steps`.
    """

    def __init__(
        self,
        config: TrainConfig,
        part: Decoder,
        batches: PointBatches | MapBatches | ImageBatches,
        weights: Tensor | None,
        *,
        lr: float,
        epochs: int,
    ) -> None:
        self.config, self.part, self.batches, self.weights = config, part, batches, weights
        # The closed form is a phase of one epoch that has one step.
        self.epochs = 1 if config.instant else max(epochs, math.ceil(config.steps / len(batches)))
        self.optimizer = _optimizer(config, part, lr)
        self._highest = [group["lr"] for group in self.optimizer.param_groups]
        self._average = (
            AveragedModel(part, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)  # type: ignore[no-untyped-call]
            if config.ema
            else None
        )

    @property
    def lr(self) -> float:
        """The decoder's learning rate in the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def run_epoch(self, epoch: int, tick: Callable[[], None]) -> float:
        """Take the steps of an epoch and return the mean of their losses.

        Args:
            epoch: Its number in this phase, from 0.
            tick: Called after each batch.

        Raises:
            TrainingError: The loss is not finite any more, or there was nothing to learn from.
        """
        if processes.several():  # Unlike machines may round unlike: not for longer than an epoch.
            self.part.load_state_dict(processes.of_first(self.part.state_dict()))
        self.part.train()
        accumulate = self.config.accumulate
        losses: list[float] = []
        done = together = 0
        batches: Iterator[PointBatch | MapBatch] = self.batches.epoch(epoch)
        for index, batch in enumerate(batches):
            self._set_rates((epoch * len(self.batches) + index) / (self.epochs * len(self.batches)))
            first = index - index % accumulate
            together = min(accumulate, len(self.batches) - first)
            losses.append(self._learn(batch, 1 / together))
            done = index + 1 - first
            if done == together:
                self._step()
            tick()
        if not losses:
            raise TrainingError("not one crop of the epoch had a labelled pixel", hint="use larger crops")
        if done < together:  # Batches without a labelled pixel were left out.
            self._step(together / done)
        return sum(losses) / len(losses)

    def _set_rates(self, done: float) -> None:
        factor = SCHEDULES[self.config.schedule](done)
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * factor

    def _learn(self, batch: PointBatch | MapBatch, share: float) -> float:
        """Add a batch's gradient by its share of a step, and return its loss."""
        config = self.config
        loss = step_loss(self.part, batch, config.loss, self.weights, summed=config.summed_loss)
        value = float(processes.total(loss.detach()))
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}", hint="lower --lr; the best model so far is kept")
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return value

    def _step(self, factor: float = 1.0) -> None:
        """Take a step of the optimiser, the gradient multiplied by a factor."""
        processes.add_gradients(self.part.parameters())
        if factor != 1:
            for weight in self.part.parameters():
                if weight.grad is not None:
                    weight.grad.mul_(factor)
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.part.parameters(), self.config.clip, foreach=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.part)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages of the weights into the part, and take them out again at the end."""
        if self._average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.part.state_dict().items()}
        self.part.load_state_dict(self._average.module.state_dict())
        try:
            yield
        finally:
            self.part.load_state_dict(own)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: everything drawn at random follows from the seed and the epoch."""
        state = {"part": self.part.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state if self._average is None else {**state, "average": self._average.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.part.load_state_dict(state["part"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _optimizer(config: TrainConfig, part: Decoder, lr: float) -> torch.optim.Optimizer:
    """Make the optimiser of some settings, the decoder's weights in its first group."""
    groups = [{"params": list(part.parameters()), "lr": lr}]
    if isinstance(part, TrainedPart):
        layers = list(part.layers.parameters())
        groups = [
            {"params": list(part.decoder.parameters()), "lr": lr},
            {"params": [weight for weight in layers if weight.ndim > 1], "lr": config.encoder_lr},
            # Norms and biases: a decay would change what the layers were pretrained to.
            {"params": [weight for weight in layers if weight.ndim <= 1], "lr": config.encoder_lr, "decay": False},
        ]
    if config.double_bias_lr:
        groups = [half for group in groups for half in _biases_apart(group)]
    for group in groups:
        group["weight_decay"] = config.weight_decay if group.pop("decay", True) else 0.0
    groups = [group for group in groups if group["params"]]
    usual: dict[str, Any] = {"fused": False, "foreach": False}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, **usual)
    return torch.optim.AdamW(groups, lr=lr, **usual)


def _biases_apart(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what has one dimension twice the learning rate and no decay, as the paper does (section 4.3)."""
    return [
        {**group, "params": [weight for weight in group["params"] if weight.ndim > 1]},
        {**group, "params": [w for w in group["params"] if w.ndim <= 1], "lr": 2 * group["lr"], "decay": False},
    ]


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


def poly(position: float) -> float:
    """The polynomial schedule of torchvision's references: `(1 - position)**0.9`."""
    return float((1 - position) ** 0.9)


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "one_cycle": one_cycle,
    "poly": poly,
    "constant": lambda position: 1.0,
}
