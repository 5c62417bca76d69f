"""What is trained where the encoder is, too: its layers from a stride on, and the decoder behind them.

To the loop it is a decoder like any other: features in, logits out. The features are what the layers in front
give, which stay fixed, so that these features are computed once and kept; where all are trained, it is the images.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullyconv.decoder import Decoder
from fullyconv.encoder import Encoder
from fullyconv.encoders.fixed_norm import FixedNorm
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Images, Logits, Size
from fullyconv.taps import Tap

__all__ = ["TrainedPart"]


class TrainedPart(Decoder):
    """The trained layers of an encoder and its decoder.

    Dropout and stochastic depth of the encoder stay off. Its layers compute in the encoder's precision by
    autocast, their weights stay float32. A crop is seen as an image of its own, with zeros around.

    Args:
        encoder: Whose layers are trained, in place: it gives the new features as soon as they are.
        decoder: Reads its features.
        from_stride: The trained layers are those behind the deepest tap with a finer stride; None for all.
        live_statistics: Whether batch norms of the trained layers normalise by the statistics of the batch, and
            follow them; else they keep those of the pretrained weights.
        compiled: Whether the layers are compiled (`torch.compile`).

    Attributes:
        layers: The trained layers of the encoder.

    Raises:
        UsageError: There are no layers from that stride on, or the network does not say where they begin.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        from_stride: int | None = None,
        *,
        live_statistics: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        network = encoder.network
        self.start = None if from_stride is None else _tap_in_front(encoder, from_stride)
        before = [] if self.start is None else [*_taps_before(encoder, self.start), self.start]
        parts = network.parts_behind(self.start)
        modules = [network] if self.start is None else [module for part in parts for module in part.modules]
        self.layers = nn.ModuleList(modules)
        self.decoder = decoder
        self.live_statistics = live_statistics
        self.name = decoder.name
        self.num_classes = decoder.num_classes
        self.output_stride = decoder.output_stride
        self.halo_cells = 0
        # In tuples, so that they are no submodules: fixed layers are not trained.
        self._encoder: tuple[Encoder] = (encoder,)
        self._front: tuple[Encoder, ...] = ()
        if self.start is not None:
            strides = [tap.stride for tap in before]
            form = encoder.scales, encoder.input_convention, encoder.image_form, encoder.stride_grid
            # A copy of the network: what is trained in the other one would have it folded anew after each step.
            self._front = (Encoder(copy.deepcopy(network), strides, *form).set_precision(encoder.precision),)
        self.specs = self.front.specs if self.front else ()
        norms = [module for module in self.layers.modules() if isinstance(module, FixedNorm | _BatchNorm)]
        if live_statistics and not norms:
            raise UsageError(
                f"live_statistics are those of batch norms, and encoder {network.name} has none to train",
                hint="leave --live-statistics out",
            )
        self.layers.requires_grad_(True)
        self._read_here = [place for place, tap in enumerate(before) if tap in encoder.taps]
        self._behind = tuple(tap for tap in encoder.taps if tap not in before)
        run = network if self.start is None else network.features_behind
        self._run: tuple[Callable[..., list[Tensor]]] = (torch.compile(run, dynamic=False) if compiled else run,)

    @property
    def front(self) -> Encoder | None:
        """The fixed layers, which give the features that `forward` takes; None where all are trained."""
        return self._front[0] if self._front else None

    def train(self, mode: bool = True) -> "TrainedPart":
        """Switch the decoder, and batch norms with live statistics; the rest of the encoder stays in eval mode."""
        super().train(mode)
        self.layers.eval()
        for module in self.layers.modules():
            if isinstance(module, FixedNorm | _BatchNorm):
                module.train(mode and self.live_statistics)
        return self

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`.

        Args:
            features: Those of `front`, or, where there is none, a list of the images: N x 3 (or what channels they
                have) x H x W float, 0..255.
            size: (height, width) of the images in pixels, before padding.

        Returns:
            As `Decoder.forward`.
        """
        logits: Logits = self.decoder(self._features(features), size)
        return logits

    def training_logits(self, features: Features, size: Size) -> tuple[Logits, ...]:
        """Compute the logits that the loss is taken of; see `Decoder.training_logits`."""
        return self.decoder.training_logits(self._features(features), size)

    def _features(self, given: Features) -> Features:
        """Compute all features that the decoder reads."""
        (encoder,) = self._encoder
        precision = encoder.precision
        with torch.autocast(given[0].device.type, precision, enabled=precision != torch.float32):
            found = self._from_front(given) if self.front else self._from_images(given[0])
        return [maps.float().contiguous(memory_format=torch.channels_last) for maps in found]

    def _from_images(self, images: Images) -> Features:
        (encoder,), (run,) = self._encoder, self._run
        return [maps for padded in encoder.inputs(images) for maps in run(padded, encoder.strides)]

    def _from_front(self, given: Features) -> Features:
        """Go on from the fixed features, scale by scale."""
        (encoder,), (run,) = self._encoder, self._run
        count = len(given) // len(encoder.scales)
        found: Features = []
        for first in range(0, len(given), count):
            fixed = given[first : first + count]
            start = fixed[-1].contiguous(memory_format=torch.channels_last)
            found += [fixed[place] for place in self._read_here]
            found += run(self.start, start, self._behind)
        return found


def _tap_in_front(encoder: Encoder, stride: int) -> Tap:
    """The deepest tap with a finer stride."""
    network = encoder.network
    if not network.parts():
        raise UsageError(
            f"encoder {network.name} can only be trained as a whole, got train_encoder {stride}",
            hint="use --train-encoder all",
        )
    finer = [tap for tap in network.taps if tap.stride < stride]
    deeper = [tap.stride for tap in encoder.taps if tap.stride >= stride]
    if finer and deeper:
        return finer[-1]
    known = [tap.stride for tap in network.taps[1:] if tap.stride <= encoder.stride_grid]
    raise UsageError(
        f"encoder {network.name} can be trained from stride {' or '.join(map(str, dict.fromkeys(known)))} on with "
        f"this decoder, got {stride}",
        hint="or --train-encoder all",
    )


def _taps_before(encoder: Encoder, start: Tap) -> Sequence[Tap]:
    """The taps that the decoder reads in front of another one."""
    taps = encoder.network.taps
    return [tap for tap in encoder.taps if taps.index(tap) < taps.index(start)]
