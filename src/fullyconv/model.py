"""The FCN: a fixed encoder and a trained decoder, for images of any size."""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.class_table import ClassTable
from fullyconv.config import TrainConfig
from fullyconv.decoder import Decoder
from fullyconv.decoders import DEFAULT_STRIDES, build_decoder, needed_strides
from fullyconv.decoders.cae import CAEDecoder
from fullyconv.encoder import FINE_TUNED, RGB_0_TO_1, Encoder
from fullyconv.encoders import bare_network, build_network, classifier_layers, is_cae, open_cae
from fullyconv.encoders.cae import CAE
from fullyconv.errors import UsageError
from fullyconv.image_form import RGB, ImageForm
from fullyconv.shapes import Features, Images, Logits, Size
from fullyconv.tiles import Halo
from fullyconv.upsample import upsample_logits

__all__ = ["FCN", "build_model", "describe", "image_form_of"]


class FCN(nn.Module):
    """A fully convolutional network (Long, Shelhamer, Darrell, CVPR 2015) with a fixed encoder.

    Args:
        encoder: Gives features; never trained.
        decoder: Turns features into logits at its output stride; built for the encoder's specs.
        class_table: What the classes are; as many as the decoder has logits.
        training: What is worth knowing about the training, as JSON values; travels in the model file.

    Raises:
        UsageError: A decoder for features of another size policy.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        class_table: ClassTable,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if decoder.size_policy != encoder.network.size_policy:
            raise UsageError(
                f"decoder {decoder.name} reads features of the size policy {decoder.size_policy}, encoder "
                f"{encoder.network.name} gives those of {encoder.network.size_policy}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.class_table = class_table
        self.training_record: dict[str, Any] = dict(training or {})

    @classmethod
    def build(
        cls,
        class_table: ClassTable,
        *,
        encoder: str = "efficientnet_lite0",
        encoder_weights: str = "pretrained",
        decoder: str = "practical",
        stride: int | None = None,
        scales: Sequence[float] = (1.0,),
        rgb_0_to_1: bool = False,
        image_form: ImageForm = RGB,
        **decoder_options: Any,
    ) -> "FCN":
        """Put an untrained model together from names.

        Args:
            class_table: The classes to tell apart.
            encoder: One of `fullyconv.encoders.ENCODER_NAMES`, "cae:" and the path of an autoencoder's file, or
                "timm:" or "hf:" and a name of that library.
            encoder_weights: "pretrained", "none" or a weights file.
            decoder: One of `fullyconv.decoders.DECODER_NAMES`.
            stride: The finest stride that the decoder reads; the decoder's own default if None
                (`fullyconv.decoders.needed_strides`).
            scales: Scales of the image at which features are read.
            rgb_0_to_1: Feed the encoder RGB 0..1 and nothing else, whatever it was trained on.
            image_form: How images come: as RGB, or as so many channels.
            decoder_options: Options of the decoder, such as `hidden` and `dropout` of the practical one.

        Raises:
            UsageError: An unknown name, or an encoder without the strides that the decoder needs.
            WeightsError: Weights that are missing or do not fit.
        """
        if is_cae(encoder) and rgb_0_to_1:
            raise UsageError("an autoencoder is fed what it was trained on, not RGB 0..1")
        if is_cae(encoder) and decoder == CAEDecoder.name:
            if decoder_options or tuple(scales) != (1.0,):
                raise UsageError("the form of decoder cae is its autoencoder's: it takes no options and no scales")
            cae = open_cae(encoder, encoder_weights)
            return cls.from_cae(cae, class_table, stride=stride, image_form=image_form)
        network = build_network(encoder, encoder_weights, image_form.channels)
        auxiliary = bool(decoder_options.get("auxiliary"))
        strides = needed_strides(decoder, network.taps, stride, auxiliary=auxiliary)
        fixed = Encoder(network, strides, scales, RGB_0_TO_1 if rgb_0_to_1 else None, image_form)
        trained = build_decoder(decoder, fixed.specs, class_table.num_classes, **decoder_options)
        return cls(fixed, trained, class_table)

    @classmethod
    def from_cae(
        cls, cae: CAE, classes: ClassTable | int, *, stride: int | None = None, image_form: ImageForm = RGB
    ) -> "FCN":
        """Turn an autoencoder into an FCN: classes in place of pixels, and skips.

        The downsampling path is kept, fixed: its `down.*` become `encoder.network.*`. The upsampling path starts
        from the autoencoder's: `up.N.*` become `decoder.up.N.*` for N from 1 up. Its last layer is new, with a
        channel a class. Tensors are copied: the autoencoder stays what it is.

        Args:
            cae: A trained autoencoder.
            classes: The classes to tell apart, or how many.
            stride: The finest stride whose features are added as a skip, at least 2; its coarsest one for none. By
                default 4, or the coarsest where that is finer.
            image_form: How images come; of as many channels as the autoencoder reads, or RGB for grey.

        Raises:
            UsageError: A stride that the autoencoder does not have, or images of another number of channels.
        """
        table = ClassTable.from_values(range(classes)) if isinstance(classes, int) else classes
        coarsest = cae.down.taps[-1].stride
        finest = min(DEFAULT_STRIDES[CAEDecoder.name], coarsest) if stride is None else stride
        strides = needed_strides(CAEDecoder.name, cae.down.taps, finest)
        fixed = Encoder(copy.deepcopy(cae.down), strides, image_form=image_form)
        widths = [tap.channels for tap in cae.down.taps if tap.stride < finest][::-1]
        trained = CAEDecoder(fixed.specs, table.num_classes, kernel=cae.architecture.kernel, widths=widths)
        trained.take_over(cae)
        return cls(fixed, trained, table)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "FCN":
        """Build a model of the described form, its weights not yet filled in. The inverse of `description`."""
        encoder, decoder = description["encoder"], dict(description["decoder"])
        form = ImageForm.from_json(encoder.get("image_form"))
        network = bare_network(encoder["name"], encoder.get("architecture"), form.channels)
        network.weights_source = encoder["weights_source"]
        # Any other convention is the network's own, or `load_model` refuses it.
        described, lectures = (
            json.dumps(values, sort_keys=True) for values in (encoder["input_convention"], asdict(RGB_0_TO_1))
        )
        convention = RGB_0_TO_1 if described == lectures else None
        fixed = Encoder(network, encoder["strides"], encoder["scales"], convention, form)
        table = ClassTable.from_json(description["class_table"])
        trained = build_decoder(decoder.pop("name"), fixed.specs, table.num_classes, **decoder)
        return cls(fixed, trained, table, description["training"])

    def description(self) -> dict[str, Any]:
        """Everything that a model file says beside the tensors, as JSON values."""
        network = self.encoder.network
        return {
            "encoder": {
                **self.encoder.config(),
                "digest": self.encoder.digest(),
                "weights_source": network.weights_source,
                "weights_licence": network.weights_licence,
                "receptive_fields": [tap.receptive_field for tap in self.encoder.taps],
            },
            "decoder": {"name": self.decoder.name, **self.decoder.config()},
            "class_table": self.class_table.to_json(),
            "size_policy": network.size_policy,
            "stride_grid": self.encoder.stride_grid,
            "output_stride": self.decoder.output_stride,
            "training": self.training_record,
        }

    @property
    def halo(self) -> Halo | None:
        """How far the logits of a pixel reach beyond it, in pixels: nothing farther away changes a bit of them.

        None where that is not known, or is as far as the image goes.
        """
        if self.encoder.network.sees_all or self.decoder.sees_all:
            return None
        return self.decoder.halo(self.encoder.reach)

    @property
    def tile_grid(self) -> int:
        """Pixels between the positions at which a part of an image can begin and give the bits of the whole."""
        return math.lcm(self.encoder.crop_grid, self.decoder.output_stride)

    def forward(self, images: Images) -> Logits:
        """Compute logits at every pixel.

        Args:
            images: N x 3 x H x W RGB, or of the channels of the encoder's `image_form`; uint8 or float, 0..255;
                any H and W from 1 up.

        Returns:
            N x C x H x W float.
        """
        size = (images.shape[-2], images.shape[-1])
        logits = upsample_logits(self.logits(self.features(images), size), self.decoder.output_stride, size)
        if logits.shape[-2:] != images.shape[-2:]:
            raise RuntimeError(f"output {tuple(logits.shape[-2:])} differs from input {size}")
        return logits

    def features(self, images: Images) -> Features:
        """Compute the encoder's features in float32."""
        return [maps.float() for maps in self.encoder(images)]

    def logits(self, features: Features, size: Size) -> Tensor:
        """Compute logits at the decoder's output stride for images of (height, width) `size`.

        However the features are laid out in memory, the decoder gets them channels last: so the logits are, bit
        for bit, those from the feature cache, and those of a part of an image are those of the whole.
        """
        logits: Tensor = self.decoder(
            [maps.contiguous(memory_format=torch.channels_last) for maps in features], size
        )
        return logits


def build_model(config: TrainConfig, class_table: ClassTable) -> FCN:
    """Build the untrained model of some settings."""
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "practical": lambda: {"hidden": config.hidden, "dropout": config.dropout},
        "fcn": lambda: {"upsampling": config.upsampling, "fc": config.fc},
        "fcn_at_once": lambda: {"upsampling": config.upsampling, "fc": config.fc},
        "lecture": lambda: {"width": config.width},
        "d2l": dict,
        "torchvision": lambda: {"auxiliary": config.auxiliary},
        "cae": dict,
    }
    model = FCN.build(
        class_table,
        encoder=config.encoder,
        encoder_weights=config.encoder_weights,
        decoder=config.decoder,
        stride=config.stride,
        scales=config.scales,
        rgb_0_to_1=config.rgb_0_to_1,
        image_form=image_form_of(config),
        **options[config.decoder](),
    )
    if config.fc and (layers := classifier_layers(config.encoder, config.encoder_weights)):
        model.decoder.load_fc(**{name.replace(".", "_"): tensor for name, tensor in layers.items()})  # type: ignore[operator]
    return model


def image_form_of(config: TrainConfig) -> ImageForm:
    """How images are read by some settings."""
    return ImageForm.of(config.channels, config.value_range)


def describe(description: Mapping[str, Any]) -> str:
    """Put a model's description into a few lines for people."""
    encoder, decoder, table = description["encoder"], description["decoder"], description["class_table"]
    training = description["training"]
    settings = ", ".join(f"{name} {value}" for name, value in decoder.items() if name != "name")
    scales = ", ".join(f"{scale:g}" for scale in encoder["scales"])
    fields = ", ".join(
        f"{f'{field} px' if field else 'the whole image'} at stride {stride}"
        for field, stride in zip(encoder["receptive_fields"], encoder["strides"], strict=True)
    )
    classes = ", ".join(f"{entry['name']} ({entry['value']})" for entry in table["classes"])
    state = "encoder (tuned)" if encoder["weights_source"].endswith(FINE_TUNED) else "encoder (fixed)"
    lines = [
        f"classes          {classes}",
        f"ignored values   {', '.join(map(str, table['ignored'])) or 'none'} (and 255)",
        f"{state:17}{encoder['name']}, weights: {encoder['weights_source']} ({encoder['weights_licence']})",
        f"images           {ImageForm.from_json(encoder.get('image_form'))}",
        f"features         image scales {scales}; receptive fields: {fields}",
        f"decoder          {decoder['name']}: {settings}",
        f"output stride    {description['output_stride']}",
        f"size policy      {_size_policy(description)}",
    ]
    if "imported" in training:
        network = training["imported"].get("network")
        lines.append(f"imported         {f'{network}, ' if network else ''}from {training['imported']['source']}")
    if "val_mean_iou" in training:
        lines.append(
            f"trained on       {training['train_images']} images, epoch {training['epoch']}, val mean IoU "
            f"{training['val_mean_iou']:.4f} on {training['val_images']} images, {training['precision']}"
        )
    lines.append(f"digest           {description['digest']}")
    return "\n".join(lines)


def _size_policy(description: Mapping[str, Any]) -> str:
    """Put the size policy into words."""
    policy, grid = description["size_policy"], description["stride_grid"]
    words = {
        "pad-to-stride": f"to multiples of {grid}",
        "pad-100": f"by 100 px on each side, cells every {grid} px",
    }
    return f"{policy}: {words[policy]}"
