"""The networks of the encoders with few channels: every layer of them, but quick, and small on disk."""

from dataclasses import replace

from fullyconv.encoders import efficientnet_lite, resnet, vgg


def make_thin(monkeypatch, channels=1):
    """Give every network that is built from now on so many channels (EfficientNet-Lite 8 at least)."""
    thin = [replace(stage, channels=channels) for stage in efficientnet_lite.STAGES]
    monkeypatch.setattr(efficientnet_lite, "STAGES", thin)
    monkeypatch.setattr(efficientnet_lite, "STEM_CHANNELS", channels)
    monkeypatch.setattr(vgg, "CONVOLUTIONS", [[channels] * len(widths) for widths in vgg.CONVOLUTIONS])
    monkeypatch.setattr(resnet, "STEM_CHANNELS", channels)
    monkeypatch.setattr(resnet, "WIDTHS", [channels] * 4)
