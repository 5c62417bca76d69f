"""The networks of the encoders with few channels: every layer of them, but quick, and small on disk."""

from dataclasses import replace

import pytest

from fullyconv.encoders import efficientnet_lite, resnet, vgg

DEEPER = ("efficientnet_lite1", "efficientnet_lite2", "resnet101", "resnet101_d8")
"""Encoders that have more of the blocks of another one: every day that one stands for them."""


def deeper_slow(cases, name=lambda case: case):
    """Mark the cases of deeper encoders as slow tests."""
    slow = pytest.mark.slow
    return [
        pytest.param(*([case] if isinstance(case, str) else case), marks=slow) if name(case) in DEEPER else case
        for case in cases
    ]


def make_thin(monkeypatch, channels=1):
    """Give every network that is built from now on so many channels (EfficientNet-Lite 8 at least)."""
    thin = [replace(stage, channels=channels) for stage in efficientnet_lite.STAGES]
    monkeypatch.setattr(efficientnet_lite, "STAGES", thin)
    monkeypatch.setattr(efficientnet_lite, "STEM_CHANNELS", channels)
    monkeypatch.setattr(vgg, "CONVOLUTIONS", [[channels] * len(widths) for widths in vgg.CONVOLUTIONS])
    monkeypatch.setattr(resnet, "STEM_CHANNELS", channels)
    monkeypatch.setattr(resnet, "WIDTHS", [channels] * 4)
