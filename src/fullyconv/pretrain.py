"""Train a convolutional autoencoder on images alone: what it learns to draw again, it has to have seen.

Crops of images go through a narrow middle and have to come back: mean squared error on values in 0..1. With
`noise` they go in with Gaussian noise and have to come back clean. A part of the images is held out and measured.
No masks are needed: the images may be those of a data set whose masks nobody has drawn yet.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fullyconv import processes
from fullyconv.charts import curves
from fullyconv.checkpoint import load_newest, save_checkpoint
from fullyconv.config import PretrainConfig
from fullyconv.device import choose_device, move, set_threads
from fullyconv.encoders.cae import CAE, PRESETS, save_cae
from fullyconv.errors import DataError, TrainingError, UsageError
from fullyconv.image_form import ImageForm
from fullyconv.phase import one_cycle
from fullyconv.pictures import reconstruction_panel, save_picture
from fullyconv.pretrain_images import ImageReader, Picture, collected, split, to_tensor
from fullyconv.progress import Progress, Silent, duration
from fullyconv.run_folder import RunFolder
from fullyconv.shapes import Image, Size
from fullyconv.sizes import padded_size

__all__ = ["PretrainResult", "pretrain", "reconstruct"]

START = 2**22
"""Pixels of which the principal components are taken."""

WHOLE = 1024
"""Of larger images the central part of this side is measured at the end and shown."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PretrainResult:
    """What a pretraining leaves.

    Attributes:
        run: The run folder.
        cae: Path of the autoencoder's file, for `train --encoder cae:FILE` and `fullyconv.encoders.cae.load_cae`.
        val_mse: Mean squared error of the held-out images, whole, on values in 0..1.
        history: One mapping an epoch: epoch, loss, val_mse, psnr, lr, seconds.
    """

    run: Path
    cae: Path
    val_mse: float
    history: list[dict[str, Any]]


def pretrain(
    images: Sequence[str | Path | _Array],
    out: str | Path,
    config: PretrainConfig = PretrainConfig(),  # noqa: B008 - frozen
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> PretrainResult:
    """Train a convolutional autoencoder on images.

    Args:
        images: Files, folders and globs of images; or H x W (grey) and H x W x channels uint8 arrays.
        out: The run folder; must not hold anything unless `resume`.
        config: The settings.
        resume: Go on from the newest checkpoint in `out`; ends in the same bits as a run never interrupted.
        progress: Where to report; nowhere by default.

    Raises:
        DataError: An image cannot be read, or there are fewer than two; found before the first epoch.
        UsageError: Settings that do not fit each other, the images or the run folder.
        TrainingError: The loss is not finite any more.
    """
    processes.refuse_several("pretrain")
    run = RunFolder(Path(out), resume=resume, progress=progress or Silent())
    set_threads(config.threads)
    with run.held(resumed=resume):
        pictures = collected(images)
        splits = split(pictures, config)
        if resume:
            now = {picture.id: name for name, part in splits.items() for picture in part}
            if now != run.read_split():
                raise DataError(
                    f"the images are not those with which the run in {run.path} began",
                    hint="restore them, or start a new run",
                )
        else:
            run.write_start(config, splits)
        session = _Session(run, config, splits)
        return session.fit(load_newest(run.checkpoint, report=run.say) if resume else None)


def reconstruct(cae: CAE, image: _Array) -> _Array:
    """Send one image through an autoencoder.

    Args:
        cae: On any device.
        image: H x W x channels uint8, any H and W from 1 up.

    Returns:
        H x W x channels uint8.
    """
    device = next(cae.parameters()).device
    with torch.no_grad():
        drawn = cae(to_tensor(image)[None].to(device) / 255)
    return _to_image(drawn[0])


class _Session:
    """One pretraining from its first line to its last: the parts that the loop needs, made once."""

    def __init__(self, run: RunFolder, config: PretrainConfig, splits: Mapping[str, Sequence[Picture]]) -> None:
        self.run, self.config, self.splits = run, config, splits
        self.device = choose_device(config.device)
        preset = PRESETS[config.preset]
        architecture = replace(preset, channels=config.channels or preset.channels, down=config.down)
        self.reader = ImageReader(ImageForm.of(architecture.channels, config.value_range))
        sizes = self.reader.sizes([*splits["train"], *splits["val"]])
        tallest, widest = (max(size[axis] for size in sizes) for axis in (0, 1))
        self.crop = min(config.crop, tallest), min(config.crop, widest)
        self.steps = math.ceil(len(splits["train"]) / config.batch)
        self.epochs = max(config.epochs, math.ceil(config.steps / self.steps))
        self.cae = CAE(architecture)
        self.cae.initialise(config.seed)
        self.cae.to(self.device)
        self.identity = json.loads(json.dumps({"config": asdict(config), "architecture": architecture.to_json()}))
        self.optimizer = torch.optim.AdamW(
            self.cae.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=False, foreach=False
        )
        run.say(
            f"{len(splits['train'])} images to learn from, {len(splits['val'])} held out; "
            f"crops of {self.crop[0]} x {self.crop[1]} pixels, {self.epochs} epochs of {self.steps} steps"
        )
        run.say(_way(self.cae, self.crop))

    def fit(self, state: dict[str, Any] | None) -> PretrainResult:
        """Run the epochs that are left, then write the autoencoder, curves and pictures."""
        history: list[dict[str, Any]] = []
        if state is not None:
            if state["run"] != self.identity:
                raise UsageError(
                    f"the checkpoint in {self.run.checkpoint} is of another run", hint="start a new run"
                )
            self.cae.load_state_dict(state["cae"])
            self.optimizer.load_state_dict(state["optimizer"])
            history = state["history"]
            self.run.say(f"resuming after epoch {len(history)} of {self.epochs}")
        else:
            self._start()
            self._checkpoint(history)
        for epoch in range(len(history), self.epochs):
            history.append(self._epoch(epoch))
            self.run.write_metrics(history)
            self._checkpoint(history)
        return self._finish(history)

    def _start(self) -> None:
        """Begin with the principal components of crops, where that is wanted and can be."""
        if self.config.start != "components" or self.config.down != "stride":
            return
        size = padded_size(self.crop, self.cae.down.taps[-1].stride)
        count = min(max(64, START // math.prod(size)), 4096)
        indices = [index % len(self.splits["train"]) for index in range(count)]
        self.cae.start_from_components(self._crops(indices, size, _generator(self.config.seed, "start")))
        self.run.say(f"start from principal components: val MSE {self._measure(self.crop):.5f}")

    def _checkpoint(self, history: list[dict[str, Any]]) -> None:
        """Keep what the next epoch needs; everything drawn at random follows from the seed and its number."""
        state = {
            "run": self.identity,
            "cae": self.cae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": history,
        }
        save_checkpoint(self.run.checkpoint, state, epoch=len(history))

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Learn from a crop of each image, then measure."""
        start = time.perf_counter()
        total = 0.0
        with self.run.track(f"epoch {epoch + 1} of {self.epochs}", self.steps) as tick:
            for index, clean in enumerate(self._batches(epoch)):
                rate = one_cycle((epoch * self.steps + index) / (self.epochs * self.steps))
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr * rate
                total += self._step(clean, _generator(self.config.seed, epoch, index))
                tick()
        mse = self._measure(self.crop)
        row = {
            "epoch": epoch + 1,
            "loss": total / self.steps,
            "val_mse": mse,
            "psnr": psnr(mse),
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - start, 3),
        }
        left = self.epochs - epoch - 1
        rest = f", about {duration(left * row['seconds'])} left" if left else ""
        self.run.say(
            f"epoch {epoch + 1}/{self.epochs}  loss {row['loss']:.5f}  val MSE {mse:.5f}  "
            f"PSNR {row['psnr']:.1f} dB  ({duration(row['seconds'])}{rest})"
        )
        return row

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the clean crops of an epoch, N x channels x h x w, 0..1."""
        draw = _generator(self.config.seed, epoch)
        order = torch.randperm(len(self.splits["train"]), generator=draw).tolist()
        for start in range(0, len(order), self.config.batch):
            yield self._crops(order[start : start + self.config.batch], self.crop, draw)

    def _crops(self, indices: Sequence[int], size: Size, draw: torch.Generator) -> Tensor:
        """Draw a crop of each of some images, N x channels x h x w, 0..1."""
        crops = []
        for index in indices:
            image = self.reader.read(self.splits["train"][index])
            corner = [
                int(torch.randint(max(0, side - crop) + 1, (1,), generator=draw))
                for side, crop in zip(image.shape[-2:], size, strict=True)
            ]
            crops.append(_cut(image, corner, size))
        batch = move(torch.stack(crops), self.device).float() / 255
        return batch.contiguous(memory_format=torch.channels_last)

    def _step(self, clean: Tensor, draw: torch.Generator) -> float:
        """Take one step of the optimiser and return the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.mse_loss(self.cae(self._noisy(clean, draw)), clean)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}", hint="lower --lr, and start a new run")
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _noisy(self, clean: Tensor, draw: torch.Generator) -> Tensor:
        """Add the noise of the denoising autoencoder (Vincent et al. 2008), if there is any."""
        if not self.config.noise:
            return clean
        return clean + self.config.noise * torch.randn(clean.shape, generator=draw).to(clean)

    @torch.no_grad()
    def _measure(self, side: Size) -> float:
        """Mean squared error over the pixels of the centres of the held-out images."""
        total, pixels = 0.0, 0
        for clean, _, drawn in self._reconstructions(self.splits["val"], side):
            total += float((drawn - clean).square().sum(dtype=torch.float64))
            pixels += clean.numel()
        return total / pixels

    @torch.no_grad()
    def _reconstructions(self, pictures: Sequence[Picture], side: Size) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the central part of each image, the same with noise, and what comes back: 1 x channels x h x w."""
        for index, picture in enumerate(pictures):
            image = self.reader.read(picture)
            inside = [min(given, wanted) for given, wanted in zip(image.shape[-2:], side, strict=True)]
            corner = [(given - cut) // 2 for given, cut in zip(image.shape[-2:], inside, strict=True)]
            clean = _cut(image, corner, (inside[0], inside[1]))[None].to(self.device).float() / 255
            noisy = self._noisy(clean, _generator(self.config.seed, -1, index))
            yield clean, noisy, self.cae(noisy)

    def _finish(self, history: list[dict[str, Any]]) -> PretrainResult:
        """Measure whole images, and write what the run is for."""
        mse = self._measure((WHOLE, WHOLE))
        self.run.say(f"held-out images, whole: MSE {mse:.5f}, PSNR {psnr(mse):.1f} dB")
        path = self.run.path / "cae.safetensors"
        self.cae.training_record = {
            "config": {name: value for name, value in asdict(self.config).items() if name != "device"},
            "epochs": len(history),
            "val_mse": mse,
            "train_images": len(self.splits["train"]),
            "val_images": len(self.splits["val"]),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        save_cae(self.cae, path, overwrite=True)
        figure = curves(history, losses=("loss", "val_mse"), metrics=("psnr",))
        save_picture(figure, self.run.path / "curves.png")
        save_picture(self._panel(), self.run.path / "reconstructions.png")
        return PretrainResult(self.run.path, path, mse, history)

    def _panel(self) -> Image:
        """Draw a handful of held-out images, what went in, and what came back."""
        val = self.splits["val"]
        number = 4 if max(self.reader.read(val[0]).shape[-2:]) > 128 else 10
        chosen = sorted({round(index * (len(val) - 1) / max(1, number - 1)) for index in range(number)})
        rows: dict[str, list[Image]] = {"input": [], "with noise": [], "reconstruction": []}
        for shown in self._reconstructions([val[index] for index in chosen], (WHOLE, WHOLE)):
            for images, tensor in zip(rows.values(), shown, strict=True):
                images.append(_displayed(_to_image(tensor[0])))
        if not self.config.noise:
            del rows["with noise"]
        return reconstruction_panel(rows)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on values in 0..1."""
    return -10 * math.log10(max(mse, 1e-12))


def _way(cae: CAE, size: Size) -> str:
    """The sizes of the maps on the way down and up again."""
    channels = (cae.architecture.channels, *cae.architecture.widths)
    maps = [f"{height} x {width} x {k}" for (height, width), k in zip(cae.sizes(size), channels, strict=True)]
    count = sum(parameter.numel() for parameter in cae.parameters())
    return f"{' > '.join(maps)} and back, {count:,} weights"


def _generator(*parts: int | str) -> torch.Generator:
    """A generator of its own for each part of a run."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _cut(image: Tensor, corner: Sequence[int], size: Size) -> Tensor:
    """Cut a window out of channels x H x W; smaller images are continued by their edge pixels."""
    rows = torch.arange(corner[0], corner[0] + size[0]).clamp(max=image.shape[-2] - 1)
    columns = torch.arange(corner[1], corner[1] + size[1]).clamp(max=image.shape[-1] - 1)
    return image.index_select(-2, rows).index_select(-1, columns)


def _to_image(values: Tensor) -> _Array:
    """Turn channels x H x W in 0..1 into H x W x channels uint8."""
    pixels = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(pixels.cpu().numpy())


def _displayed(image: _Array) -> Image:
    """Show the first three channels as RGB, or the first one as grey."""
    return image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
