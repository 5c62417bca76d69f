"""Features and decoders that are small enough to compute with in every test."""

import math

import torch
from torch import nn
from torch.nn import functional

from fullyconv.decoders import build_decoder, needed_strides
from fullyconv.encoder import Encoder, EncoderNetwork, InputConvention
from fullyconv.taps import FeatureSpec, Tap

CHANNELS = {2: 2, 4: 3, 8: 5, 16: 6, 32: 7}
SIZES = [(1, 1), (1, 47), (31, 33), (32, 32), (33, 31), (47, 1)]

# Every decoder in every form, small where it would be large.
FORMS = {
    "practical, linear": ("practical", None, {}),
    "practical, hidden": ("practical", 8, {"hidden": 6, "dropout": 0.5}),
    "practical, coarse": ("practical", 8, {"output_stride": 16}),
    "practical, coarsest": ("practical", 8, {"output_stride": 32}),
    "FCN-32s": ("fcn", 32, {}),
    "FCN-16s": ("fcn", 16, {}),
    "FCN-8s": ("fcn", 8, {}),
    "FCN-4s": ("fcn", 4, {}),
    "FCN-8s with fc6": ("fcn", 8, {"fc": True, "width": 9}),
    "FCN-32s, learned": ("fcn", 32, {"upsampling": "learned"}),
    "FCN-8s, learned": ("fcn", 8, {"upsampling": "learned"}),
    "FCN-8s at once": ("fcn_at_once", 8, {}),
    "lecture": ("lecture", None, {"width": 9}),
    "d2l": ("d2l", None, {}),
    "d2l, stride 8": ("d2l", 8, {}),
    "torchvision": ("torchvision", None, {}),
    "torchvision, auxiliary": ("torchvision", 16, {"auxiliary": True}),
    "autoencoder's": ("cae", None, {}),
    "autoencoder's, stride 2": ("cae", 2, {"kernel": 3}),
    "autoencoder's, stride 8": ("cae", 8, {"widths": [4, 3]}),
    "autoencoder's, stride 32": ("cae", 32, {"kernel": 5}),
}


class TinyNetwork(EncoderNetwork):
    """A network with taps at strides 2 to 32 that only averages."""

    name = "tiny"
    taps = tuple(Tap(f"pool{stride}", stride, k, stride) for stride, k in CHANNELS.items())
    input_convention = InputConvention((127.5, 127.5, 127.5), (64.0, 64.0, 64.0))
    weights_licence = "CC0-1.0"

    def __init__(self):
        super().__init__()
        self.mix = nn.ModuleDict({str(tap.stride): nn.Conv2d(3, tap.channels, 1) for tap in self.taps})

    def forward(self, images, strides):
        return [self.mix[str(stride)](functional.avg_pool2d(images, stride)) for stride in strides]


def specs_of(*strides, scales=(1.0,)):
    return [FeatureSpec(Tap(f"pool{s}", s, CHANNELS[s], s), scale) for scale in scales for s in strides]


def features_of(specs, size, count=1):
    """Random features of the sizes that an encoder gives: enlarged, padded to multiples of 32."""
    features = []
    for spec in specs:
        padded = [math.ceil(max(1, math.floor(side * spec.scale)) / 32) * 32 for side in size]
        features.append(torch.randn(count, spec.channels, *(side // spec.tap.stride for side in padded)))
    return features


def built(form, num_classes=3, scales=(1.0,)):
    name, stride, options = form
    strides = needed_strides(name, TinyNetwork.taps, stride, auxiliary=options.get("auxiliary", False))
    return build_decoder(name, specs_of(*strides, scales=scales), num_classes, **options)


def encoder_for(name, network, stride=None, scales=(1.0,)):
    """An encoder that gives what a decoder needs."""
    return Encoder(network, needed_strides(name, network.taps, stride), scales)


def randomised(decoder):
    """Give every weight and statistic a value that shows, in eval mode."""
    for name, tensor in decoder.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if name.endswith("running_var") else tensor.normal_()
    return decoder.eval()


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
