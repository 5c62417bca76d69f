"""What recipes change of the defaults of training, and what is usual where a decoder needs other settings."""

from collections.abc import Mapping
from typing import Any

from fullyconv.contradictions import INSTANT_ONLY, MAPS_ONLY

__all__ = ["INSTANT_USUAL", "MAPS_USUAL", "OTHER_STRIDES", "RECIPES"]

INSTANT_USUAL: Mapping[str, Any] = {**INSTANT_ONLY, "pixels": 64, "balance": 0.0}
"""What the closed form has where nothing else is said. Pixels of an image are much alike: more cost time only."""

MAPS_USUAL: Mapping[str, Any] = {
    **MAPS_ONLY,
    "stride": 8,
    "pixels": 4096,
    "batch": 8,
    "epochs": 10,
    "steps": 300,
    "balance": 0.0,
}
"""What all decoders but the practical one have where nothing else is said: FCN-8s on whole maps."""


OTHER_STRIDES = {"d2l": None, "torchvision": None, "cae": 4}
"""The decoders whose usual stride is not 8; None is the encoder's coarsest, whatever that is."""


_FAST: Mapping[str, Any] = {
    "scales": (1.0,),
    "hidden": 32,
    "dropout": 0.0,
    "batch": 8,
    "epochs": 6,
    "steps": 300,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fast": _FAST,
    "tuned": {**_FAST, "train_encoder": "all", "ema": 0.99, "clip": 5.0, "crop": 320},
    "lecture-exact": {
        **MAPS_USUAL,
        "encoder": "vgg16",
        "decoder": "lecture",
        "rgb_0_to_1": True,
        "precision": "float32",
        "pixels": 0,
        "balance": 0.0,
        "mirror": False,
        "crop": 10**6,  # larger than any image: whole images
        # 300 random batches of 20, a line for each 30.
        "epochs": 10,
        "epoch_steps": 30,
        "steps": 0,
        "batch": 20,
        # Adam at 1e-3.
        "lr": 1e-3,
        "schedule": "constant",
        "weight_decay": 0.0,
        "patience": 0,
    },
}
"""What a recipe changes of the defaults of `TrainConfig`. "lecture-exact" is the training of "Fully Convolutional
Network (FCN)", Prof. Seungchul Lee, Industrial AI Lab; `docs/lecture.md` has the rest of it."""
