"""What a network's cells see: as found by watching it, and as values that are not numbers spread in it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fullyconv.encoders.fields import find_fields

SIZE = (80, 48)


class Pixelwise(nn.Module):
    """A ConvNeXt's way: a depthwise convolution, then layers on channels that are last."""

    def __init__(self):
        super().__init__()
        self.spatial = nn.Conv2d(3, 3, 7, padding=3, groups=3)
        self.norm, self.wide, self.narrow = nn.LayerNorm(3), nn.Linear(3, 12), nn.Linear(12, 3)

    def forward(self, maps):
        values = self.norm(self.spatial(maps).permute(0, 2, 3, 1))
        return maps + self.narrow(functional.gelu(self.wide(values))).permute(0, 3, 1, 2)


class Parts(nn.Module):
    """Parts of the channels go different ways, one of them over every second pixel."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 2, 3, 2, 1), nn.Conv2d(8, 2, (1, 5), padding=(0, 2))

    def forward(self, maps):
        maps = torch.cat((maps, maps.mean(1, keepdim=True)), 1)
        some, others = maps.split(2, 1)
        corners = [maps[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        joined = torch.cat((self.first(torch.cat((others, some), 1)), torch.cat(corners, 1)), 1)
        return self.second(joined[:, :8]) - joined[:, 2:4].clamp(-1, 1)


class Same(nn.Module):
    """TensorFlow's padding: the odd zero at the bottom and right."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(3, 2)

    def forward(self, maps):
        maps = functional.hardswish(self.first(functional.pad(maps, (0, 1, 0, 1))))
        return self.second(functional.pad(maps, (0, 1, 0, 1), value=-torch.inf))


class Fused(nn.Module):
    """A coarse map is enlarged and added to a fine one."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 4, 1)

    def forward(self, maps):
        fine = self.fine(maps)
        return fine + functional.interpolate(self.coarse(fine), scale_factor=4, mode="nearest")


class Of(nn.Module):
    """A network of one function."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


KNOWN = {
    "convolutions": nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(True), nn.Conv2d(4, 4, 3, 1, 2, dilation=2)),
    "batch norm": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(True)),
    "an even kernel": nn.Conv2d(3, 4, 2, 2),
    "a wide kernel": nn.Conv2d(3, 4, (3, 9), padding=(1, 4)),
    "max pooling": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2)),
    "mean pooling": nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2, ceil_mode=True)),
    "channels last": Pixelwise(),
    "parts": Parts(),
    "padding of TensorFlow": Same(),
    "enlarged": Fused(),
    "padded at the top": nn.Sequential(nn.ZeroPad2d((3, 0, 2, 1)), nn.Conv2d(3, 4, 4)),
    "odd pixels": Of(lambda maps: maps[..., 1::2, 1::2] * 2.0),
}


def seen(network, axis):
    """The first and last row (or column) that any cell sees, counted from its own first one."""
    count = SIZE[axis]
    images = torch.zeros(count, 3, *SIZE, dtype=torch.float64)
    images.transpose(1, 2 + axis)[range(count), range(count)] = torch.nan
    touched = network(images).isnan().any(1).any(2 - axis).T  # cells x lit rows
    stride = count // len(touched)
    spans = []
    for cell in range(len(touched) // 3, 2 * len(touched) // 3):
        rows = touched[cell].nonzero().flatten()
        spans.append((int(rows[0]) - cell * stride, int(rows[-1]) - cell * stride))
    return min(first for first, _ in spans), max(last for _, last in spans)


@torch.no_grad()
@pytest.mark.parametrize("name", KNOWN)
def test_a_field_is_exactly_what_cells_see(name):
    network = KNOWN[name].to("meta").eval()
    (field,), _ = find_fields(lambda images: [network(images)], torch.empty(1, 3, *SIZE, device="meta"))
    network = network.to_empty(device="cpu").double()
    for tensor in network.state_dict().values():
        tensor.uniform_(0.5, 1) if tensor.is_floating_point() else tensor.zero_()
    spans = [seen(network, axis) for axis in (0, 1)]
    assert field.start == min(first for first, _ in spans)
    assert field.start + field.size - 1 == max(last for _, last in spans)


class Attention(nn.Module):
    def forward(self, maps):
        tokens = maps.flatten(2).transpose(1, 2)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view(maps.shape)


def squeeze_and_excite(maps):
    return maps * maps.mean((2, 3), keepdim=True).sigmoid()


def with_position(maps):
    return maps + torch.zeros(1, 3, *SIZE, device=maps.device)


def with_coordinates(maps):
    return torch.cat((maps, torch.zeros(1, 1, *SIZE, device=maps.device)), 1)


UNKNOWN = {
    "attention": Attention(),
    "squeeze and excite": Of(squeeze_and_excite),
    "pooled": Of(lambda maps: maps + functional.adaptive_avg_pool2d(maps, 1)),
    "group norm": nn.GroupNorm(1, 3),
    "layer norm over the map": nn.LayerNorm([3, *SIZE]),
    "instance norm": nn.InstanceNorm2d(3),
    "positions": Of(with_position),
    "coordinates": Of(with_coordinates),
    "softmax over rows": Of(lambda maps: maps.softmax(2)),
    "rows mixed": Of(lambda maps: functional.linear(maps, maps.new_ones(SIZE[1], SIZE[1]))),
    "torn": Of(lambda maps: maps.reshape(1, 3, 40, 96).relu().reshape(maps.shape)),
    "turned": Of(lambda maps: maps.flip(2)),
    "rolled": Of(lambda maps: maps.roll(1, 2)),
    "transposed convolution": nn.ConvTranspose2d(3, 3, 3, padding=1),
    "bilinear": Of(lambda maps: functional.interpolate(maps[..., ::2, ::2], scale_factor=2.0, mode="bilinear")),
    "other strides": nn.Conv2d(3, 3, 3, (1, 2), 1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_see_more_or_is_not_known_has_no_field(name):
    network = UNKNOWN[name].to("meta").eval()
    fields, shapes = find_fields(lambda images: [network(images)], torch.empty(1, 3, *SIZE, device="meta"))
    assert fields is None
    assert shapes[0][0] == 1
