"""The released FCNs once more, layer by layer with torch alone: what imported models are compared with."""

import torch
from torch import nn
from torch.nn import functional

from fullyconv.encoders import alexnet, vgg

MEAN = (104.00698793, 116.66876762, 122.67891434)
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class PlainVGG(nn.Module):
    """FCN-32s, 16s, 8s and 8s at once, in the layer names of those who published them."""

    def __init__(self, stride=8, at_once=False, classes=21, divisor=1):
        super().__init__()
        self.stride = stride
        self.scales = (0.01, 0.0001) if at_once else (1, 1)
        channels = 3
        for block, widths in enumerate(VGG, 1):
            for number, width in enumerate(widths, 1):
                pad = 100 if (block, number) == (1, 1) else 1
                conv = nn.Conv2d(channels, width // divisor, 3, padding=pad)
                setattr(self, f"conv{block}_{number}", conv)
                channels = width // divisor
        self.fc6 = nn.Conv2d(channels, 4096 // divisor, 7)
        self.fc7 = nn.Conv2d(4096 // divisor, 4096 // divisor, 1)
        self.score_fr = nn.Conv2d(4096 // divisor, classes, 1)

        def upscore(kernel, factor):
            return nn.ConvTranspose2d(classes, classes, kernel, factor, bias=False)

        if stride == 32:
            self.upscore = upscore(64, 32)
        if stride <= 16:
            self.score_pool4 = nn.Conv2d(512 // divisor, classes, 1)
            self.upscore2 = upscore(4, 2)
        if stride == 16:
            self.upscore16 = upscore(32, 16)
        if stride == 8:
            self.score_pool3 = nn.Conv2d(256 // divisor, classes, 1)
            self.upscore_pool4 = upscore(4, 2)
            self.upscore8 = upscore(16, 8)

    def forward(self, x):
        height, width = x.shape[2:]
        pools = []
        for block, widths in enumerate(VGG, 1):
            for number in range(1, len(widths) + 1):
                x = functional.relu(getattr(self, f"conv{block}_{number}")(x))
            x = functional.max_pool2d(x, 2, stride=2, ceil_mode=True)
            pools.append(x)
        x = self.score_fr(functional.relu(self.fc7(functional.relu(self.fc6(x)))))
        if self.stride == 32:
            return self.upscore(x)[:, :, 19 : 19 + height, 19 : 19 + width]
        up = self.upscore2(x)
        skip = self.score_pool4(pools[3] * self.scales[0])
        x = up + skip[:, :, 5 : 5 + up.shape[2], 5 : 5 + up.shape[3]]
        if self.stride == 16:
            return self.upscore16(x)[:, :, 27 : 27 + height, 27 : 27 + width]
        up = self.upscore_pool4(x)
        skip = self.score_pool3(pools[2] * self.scales[1])
        x = up + skip[:, :, 9 : 9 + up.shape[2], 9 : 9 + up.shape[3]]
        return self.upscore8(x)[:, :, 31 : 31 + height, 31 : 31 + width]


class PlainAlexNet(nn.Module):
    """FCN-AlexNet, in the layer names of those who published it."""

    def __init__(self, classes=21, divisor=1):
        super().__init__()
        first, second, third, fifth = (width // divisor for width in (96, 256, 384, 256))
        self.conv1 = nn.Conv2d(3, first, 11, stride=4, padding=100)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, third, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(third, fifth, 3, padding=1, groups=2)
        self.fc6 = nn.Conv2d(fifth, 4096 // divisor, 6)
        self.fc7 = nn.Conv2d(4096 // divisor, 4096 // divisor, 1)
        self.score_fr = nn.Conv2d(4096 // divisor, classes, 1)
        self.upscore = nn.ConvTranspose2d(classes, classes, 63, 32, bias=False)

    def forward(self, x):
        height, width = x.shape[2:]
        pool, norm = nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)
        x = norm(pool(self.conv1(x).relu()))
        x = norm(pool(self.conv2(x).relu()))
        x = pool(self.conv5(self.conv4(self.conv3(x).relu()).relu()).relu())
        x = self.score_fr(self.fc7(self.fc6(x).relu()).relu())
        return self.upscore(x)[:, :, 18 : 18 + height, 18 : 18 + width]


def preprocessed(images):
    """N x 3 x H x W RGB in 0..255 as Caffe's networks take it."""
    return images.float()[:, [2, 1, 0]] - torch.tensor(MEAN)[None, :, None, None]


@torch.no_grad()
def parity(model, reference, size, seed=0):
    """The largest difference of two logits, as a share of the largest logit."""
    images = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(seed)).byte()
    expected = reference(preprocessed(images))
    found = model(images)
    assert found.shape == expected.shape == (1, expected.shape[1], *size)
    return float((found - expected).abs().max() / expected.abs().max())


def make_narrow(monkeypatch, divisor):
    """Give encoders that are built from now on a share of their channels."""
    monkeypatch.setattr(vgg, "CONVOLUTIONS", [[width // divisor for width in widths] for widths in VGG])
    monkeypatch.setattr(alexnet, "WIDTHS", [width // divisor for width in alexnet.WIDTHS])
