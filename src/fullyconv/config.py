"""Every command's frozen settings: defaults, help texts, recipes; TOML in and out.

The command line makes its options from these classes, a run keeps its settings as `config.toml`, and the Python
functions take them as they are: one place says what can be set and what it means.
"""

import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from fullyconv.contradictions import OF_STEPS, refuse_contradictions
from fullyconv.errors import UsageError
from fullyconv.recipes import INSTANT_USUAL, MAPS_USUAL, OTHER_STRIDES, RECIPES
from fullyconv.settings import refuse_unknown, validated

__all__ = [
    "PretrainConfig",
    "TrainConfig",
    "config_from_mapping",
    "pretrain_config",
    "recipe",
]

EncoderName = Literal[
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "vgg16",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet50_d8",
    "resnet101_d8",
    "cae:FILE",
    "timm:NAME",
    "hf:NAME",
]


def _check_encoder(value: str) -> str:
    """Let the names pass, and what is named after "cae:", "timm:" and "hf:"."""
    *names, cae, timm, hf = typing.get_args(EncoderName)
    kind, _, rest = value.partition(":")
    if value in names:
        return value
    if kind in ("cae", "timm", "hf") and rest and value not in (cae, timm, hf):
        is_path = kind == "cae" or (kind == "hf" and Path(rest).expanduser().is_dir())
        return f"{kind}:{_absolute(rest) if is_path else rest}"
    known = ", ".join(map(repr, (*names, cae, timm)))
    raise ValueError(f"input should be {known} or {hf!r}")


def _absolute(path: str) -> str:
    """A path that means the same file in whatever folder the run is resumed."""
    return str(Path(path).expanduser().absolute())


def _file_or(*words: str) -> AfterValidator:
    """Let the words pass; anything else is a path."""
    return AfterValidator(lambda value: value if value in words else _absolute(value))


def _file_if_there_is(value: str | None) -> str | None:
    return _absolute(value) if value is not None and Path(value).is_file() else value


def _check_range(value: tuple[float, ...]) -> tuple[float, ...]:
    """Let nothing pass, or two numbers that rise."""
    if value and not (len(value) == 2 and value[0] < value[1] and all(map(math.isfinite, value))):
        raise ValueError("input should be LOW,HIGH, two numbers that rise")
    return value


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainConfig:
    """Settings of `fullyconv train`. The defaults are the default recipe."""

    encoder: Annotated[
        EncoderName | str,
        Field(
            description="The fixed network whose features are read; cae:FILE is one that `pretrain` made, "
            "timm:NAME one of timm, hf:NAME one of transformers (a name or folder)."
        ),
        AfterValidator(_check_encoder),
    ] = "efficientnet_lite0"
    encoder_weights: Annotated[
        str,
        Field(
            description="pretrained (installed, else downloaded once), none (random), a weights file in "
            "torchvision's key layout, or a model file whose encoder was trained."
        ),
        _file_or("pretrained", "none"),
    ] = "pretrained"
    decoder: Annotated[
        Literal["practical", "fcn", "fcn_at_once", "lecture", "d2l", "torchvision", "cae"],
        Field(
            description="The trained part: the practical decoder, the paper's FCN, the lecture's, d2l's, "
            "torchvision's, or the upsampling path of an autoencoder. All but the first learn on maps of scale 1: "
            "stride 8 (d2l, torchvision: the encoder's coarsest; cae: 4), 4096 pixels, batch 8, 10 epochs of at "
            "least 300 steps together and balance 0 where nothing else is given."
        ),
    ] = "practical"
    stride: Annotated[
        Literal[2, 4, 8, 16, 32, None],
        Field(description="Finest stride that the decoder reads: 8 makes an FCN-8s; 2 is for the decoder cae."),
    ] = 4
    scales: Annotated[
        tuple[Annotated[float, Field(ge=0.25, le=4)], ...],
        Field(min_length=1, description="Scales of the image at which features are read."),
    ] = (1.0, 1.5)
    rgb_0_to_1: Annotated[
        bool,
        Field(description="Feed the encoder RGB 0..1 and nothing else, whatever it was trained on (the lecture)."),
    ] = False
    channels: Annotated[
        int,
        Field(ge=1, le=64, description="Channels of the images as stored; 3 is RGB of any file."),
    ] = 3
    value_range: Annotated[
        tuple[float, ...],
        Field(description="Stored values LOW,HIGH that are black and white; by default all of 8 or 16 bits."),
        AfterValidator(_check_range),
    ] = ()
    hidden: Annotated[int, Field(ge=0, description="Hidden channels of the practical decoder; 0 is linear.")] = 128
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before the practical decoder's score.")] = 0.3
    upsampling: Annotated[
        Literal["fixed", "learned"],
        Field(description="Bilinear upsampling of the paper's FCN: fixed, or learned from a bilinear start."),
    ] = "fixed"
    fc: Annotated[
        bool, Field(description="Trained fc6 and fc7 layers in the paper's FCN, from VGG16's classifier.")
    ] = False
    width: Annotated[int, Field(ge=1, description="Channels of conv6 and fcn4 in the lecture's network.")] = 4096
    auxiliary: Annotated[
        bool, Field(description="Train torchvision's auxiliary head, too; it does not change the masks.")
    ] = False
    instant: Annotated[
        bool,
        Field(
            description="Solve the practical decoder without hidden layer in closed form: no epochs, no dropout; "
            "64 pixels and balance 0 where nothing else is given."
        ),
    ] = False
    train_on: Annotated[
        Literal["points", "maps"],
        Field(description="Train on features read once at labelled pixels, or on whole feature maps."),
    ] = "points"
    pixels: Annotated[
        int, Field(ge=0, description="Labelled pixels drawn from an image and view; 0: every pixel (maps only).")
    ] = 512
    loss: Annotated[
        Literal["cross_entropy", "focal", "dice", "dice+cross_entropy"],
        Field(description="What is minimised; dice needs every pixel (pixels 0)."),
    ] = "cross_entropy"
    balance: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Weigh classes by their inverse frequency to this power; 0: all alike, 1: fully. With "
            "instant: how far the classes' shares give way to equal ones.",
        ),
    ] = 0.25
    mirror: Annotated[bool, Field(description="Learn from mirrored images, too.")] = True
    view_scales: Annotated[
        tuple[Annotated[float, Field(ge=0.25, le=4)], ...],
        Field(min_length=1, description="Sizes at which images are shown, each a view of its own."),
    ] = (1.0,)
    colour_views: Annotated[int, Field(ge=0, description="Further views with changed brightness and colour.")] = 0
    crop: Annotated[
        int,
        Field(ge=0, description="Side of the random crops of feature maps in pixels; 0: the smallest image."),
    ] = 0
    epochs: Annotated[
        int,
        Field(ge=0, description="Passes over all images and views; 0: train the encoder from the beginning."),
    ] = 4
    steps: Annotated[
        int, Field(ge=0, description="At least this many steps: small data sets get more epochs.")
    ] = 600
    epoch_steps: Annotated[
        int,
        Field(
            ge=0,
            description="Steps of an epoch, their images drawn at random with replacement (maps only); "
            "0: each image once.",
        ),
    ] = 0
    batch: Annotated[int, Field(ge=1, description="Images whose pixels make one step.")] = 4
    lr: Annotated[float, Field(gt=0, description="Highest learning rate.")] = 5e-3
    schedule: Annotated[
        Literal["one_cycle", "poly", "constant"],
        Field(description="The learning rate rises and falls in one cycle, falls as a polynomial, or stays."),
    ] = "one_cycle"
    optimizer: Annotated[
        Literal["adamw", "sgd"], Field(description="AdamW, or stochastic gradient descent with momentum.")
    ] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of SGD.")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay; AdamW with 0 is Adam.")] = 1e-2
    double_bias_lr: Annotated[
        bool, Field(description="Biases learn at twice the rate and without decay, as in the paper.")
    ] = False
    summed_loss: Annotated[
        bool,
        Field(description="Sum the loss over the pixels of an image, as the released FCNs did; with SGD."),
    ] = False
    accumulate: Annotated[int, Field(ge=1, description="Batches whose gradients make one step.")] = 1
    clip: Annotated[float, Field(ge=0, description="Largest norm of a step's gradient; 0: any.")] = 0.0
    ema: Annotated[
        float,
        Field(ge=0, lt=1, description="Measure and keep moving averages of the weights, of this decay; 0: none."),
    ] = 0.0
    train_encoder: Annotated[
        Literal["none", "all", 4, 8, 16, 32],
        Field(
            description="After that, train the encoder, too: all, or from a stride on. Features of the layers "
            "below it stay cached."
        ),
    ] = "none"
    tune_epochs: Annotated[
        int, Field(ge=1, description="Passes over all images while the encoder is trained.")
    ] = 40
    tune_lr: Annotated[float, Field(gt=0, description="Highest learning rate of the decoder meanwhile.")] = 1e-3
    encoder_lr: Annotated[float, Field(gt=0, description="Highest learning rate of the encoder.")] = 3e-4
    tune_scales: Annotated[
        tuple[Annotated[float, Field(ge=0.25, le=4)], ...],
        Field(description="Images are enlarged by a factor drawn from LOW,HIGH while all of it is trained."),
        AfterValidator(_check_range),
    ] = (0.75, 1.5)
    tune_colours: Annotated[
        bool, Field(description="Change brightness and colour at random while all of it is trained.")
    ] = True
    live_statistics: Annotated[
        bool, Field(description="Batch norms of the trained layers follow the batches, instead of staying fixed.")
    ] = False
    compile: Annotated[
        bool,
        Field(description="Compile the encoder, all of which is trained (torch.compile; needs a C++ compiler)."),
    ] = False
    patience: Annotated[
        int, Field(ge=0, description="Stop after so many epochs without a better val; 0: never.")
    ] = 20
    val_fraction: Annotated[
        float,
        Field(gt=0, lt=1, description="Share of the images kept for validation where no split is given."),
    ] = 0.2
    ignore: Annotated[
        tuple[Annotated[int, Field(ge=0, le=255)], ...],
        Field(description="Mask values that are no class, besides 255."),
    ] = ()
    classes: Annotated[
        str | None,
        Field(description="classes.txt, or the names of classes 0, 1, ... separated by commas."),
        AfterValidator(_file_if_there_is),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Seed of everything drawn at random.")] = 0
    threads: Annotated[int | None, Field(ge=1, description="Threads; results are bit-equal at equal threads.")] = (
        None
    )
    device: Annotated[str, Field(description="auto, cpu, cuda or mps.")] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="In which the encoder computes; auto is bfloat16 where the processor has it."),
    ] = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, or that would change nothing.

        Raises:
            UsageError: The first contradiction.
        """
        refuse_contradictions(self)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PretrainConfig:
    """Settings of `fullyconv pretrain`."""

    preset: Annotated[
        Literal["photo", "digits"],
        Field(
            description="The autoencoder: for photographs (strides 2 to 32), or the lecture's small one (2 and 4)."
        ),
    ] = "photo"
    channels: Annotated[
        int | None,
        Field(ge=1, le=64, description="Channels of the images, 1 for grey; by default the preset's, 3 or 1."),
    ] = None
    value_range: Annotated[
        tuple[float, ...],
        Field(description="Stored values LOW,HIGH that are black and white; by default all of 8 or 16 bits."),
        AfterValidator(_check_range),
    ] = ()
    down: Annotated[
        Literal["stride", "pool"], Field(description="Halve by convolutions of stride 2, or by max pooling.")
    ] = "stride"
    start: Annotated[
        Literal["components", "random"],
        Field(
            description="Start from principal components, stage by stage, or at random, as pooling always does."
        ),
    ] = "components"
    noise: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Denoise: standard deviation of Gaussian noise on the input, of values in 0..1.",
        ),
    ] = 0.0
    crop: Annotated[
        int, Field(ge=1, description="Side of the random crops in pixels; at most the largest image's.")
    ] = 128
    epochs: Annotated[int, Field(ge=1, description="Passes over all images, a crop of each.")] = 20
    steps: Annotated[int, Field(ge=0, description="At least this many steps: few images get more epochs.")] = 1000
    batch: Annotated[int, Field(ge=1, description="Crops that make one step.")] = 16
    lr: Annotated[float, Field(gt=0, description="Highest learning rate of the one-cycle schedule (AdamW).")] = (
        5e-4
    )
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of AdamW.")] = 0.0
    val_fraction: Annotated[
        float, Field(gt=0, lt=1, description="Share of the images that are held out and measured.")
    ] = 0.1
    seed: Annotated[int, Field(ge=0, description="Seed of everything drawn at random.")] = 0
    threads: Annotated[int | None, Field(ge=1, description="Threads; results are bit-equal at equal threads.")] = (
        None
    )
    device: Annotated[str, Field(description="auto, cpu, cuda or mps.")] = "auto"


def recipe(name: str = "default", **changes: Any) -> TrainConfig:
    """Return a recipe's settings with changes.

    Raises:
        UsageError: Unknown recipe, unknown setting or a value that it cannot take.
    """
    return config_from_mapping(changes, base=name)


def config_from_mapping(values: Mapping[str, Any], *, base: str = "default", source: str = "") -> TrainConfig:
    """Validate settings, for example those of a TOML file.

    Settings that are not given are those of the recipe. A decoder that only learns on maps of one scale implies
    these settings, and usual ones for maps, where they are not given; where they are, a contradiction is refused.

    Args:
        values: By name; numbers may be given as text.
        base: The recipe.
        source: The file that they come from, for messages.

    Raises:
        UsageError: The first setting that is unknown or wrong, with its value; or an unknown recipe.
    """
    refuse_unknown(TrainConfig, values, source)
    if base not in RECIPES:
        raise UsageError(f"recipe has to be one of {', '.join(RECIPES)}, got {base!r}")
    its_decoder = RECIPES[base].get("decoder", "practical")
    decoder = values.get("decoder", its_decoder)
    if base != "default" and decoder != its_decoder:
        raise UsageError(f"recipe {base} is for the decoder {its_decoder}, got {decoder}", hint="leave it out")
    usual = RECIPES[base] if decoder == its_decoder else MAPS_USUAL
    if decoder in OTHER_STRIDES:
        usual = {**usual, "stride": OTHER_STRIDES[decoder]}
    if decoder == "practical" and str(values.get("instant", False)).lower() in ("true", "yes", "on", "1"):
        usual = {name: value for name, value in usual.items() if name not in OF_STEPS} | dict(INSTANT_USUAL)
    if values.get("loss") == "dice":
        usual = {**usual, "balance": 0.0}
    return validated(TrainConfig, {**usual, **values}, source)


def pretrain_config(values: Mapping[str, Any], *, source: str = "") -> PretrainConfig:
    """Validate settings of `pretrain`, as `config_from_mapping` does those of `train`.

    Raises:
        UsageError: The first setting that is unknown or wrong, with its value.
    """
    refuse_unknown(PretrainConfig, values, source)
    return validated(PretrainConfig, values, source)
