"""A pretrained network for images that are not RGB: its first convolution reads other channels."""

import torch
from torch import nn

from fullyconv.encoder import EncoderNetwork, InputConvention
from fullyconv.errors import UsageError

__all__ = ["with_channels"]

COLORS = 3


@torch.no_grad()
def with_channels(network: EncoderNetwork, channels: int) -> EncoderNetwork:
    """Let a network for RGB read another number of channels; nothing else of it changes.

    Of three channels and more the first three keep the filters for red, green and blue, and every further one
    gets the mean of these; of fewer, each gets the mean. All are multiplied by 3 / channels: channels that are
    equal give about what grey gives in RGB. Means and deviations of the input convention go the same way.

    Args:
        network: Reads RGB; changed in place.
        channels: As many as it is to read.

    Raises:
        UsageError: The network reads other channels than red, green and blue.
    """
    convention = network.input_convention
    if channels == len(convention.mean):
        return network
    if len(convention.mean) != COLORS:
        raise UsageError(
            f"encoder {network.name} reads images of {len(convention.mean)} channels, got {channels}",
            hint=f"use --channels {len(convention.mean)}, or another encoder",
        )
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    backwards = convention.channel_order == "BGR"
    filters = first.weight.flip(1) if backwards else first.weight
    spread = _spread(channels)
    first.weight = nn.Parameter(torch.einsum("kc,ocyx->okyx", spread * COLORS / channels, filters))
    first.in_channels = channels
    for module in network.modules():
        if getattr(module, "num_channels", None) == COLORS:  # transformers holds the images to it
            module.num_channels = channels  # type: ignore[assignment]
    mean, std = (
        (spread @ torch.tensor(values[::-1] if backwards else values, device="cpu")).tolist()
        for values in (convention.mean, convention.std)
    )
    network.input_convention = InputConvention(tuple(mean), tuple(std), channel_order="stored")
    return network


def _spread(channels: int) -> torch.Tensor:
    """Channels x 3: how much of each colour a channel takes."""
    spread = torch.full((channels, COLORS), 1 / COLORS, device="cpu")  # whatever the default is just now
    if channels > COLORS:
        spread[:COLORS] = torch.eye(COLORS, device="cpu")
    return spread
