"""The figure of this very network: what it is made of, and what becomes of an image's size in it.

The outline comes from the network itself: the encoder is run once to see which weights lead to which tap, and
the decoder says what it computes. Networks that were never trained are built by name without memory for their
weights, since all that is asked for are shapes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fullyconv.ablation import Ablation
from fullyconv.charts import contributions_figure
from fullyconv.class_table import ClassTable
from fullyconv.config import config_from_mapping
from fullyconv.decoders import DECODER_NAMES
from fullyconv.encoder import PAD_TO_STRIDE, EncoderNetwork
from fullyconv.encoders import CAE_PREFIX, ENCODER_NAMES, is_adapted, is_cae
from fullyconv.errors import UsageError
from fullyconv.images import show_path
from fullyconv.model import FCN, build_model
from fullyconv.model_file import load_model
from fullyconv.pictures import colorize, sheet
from fullyconv.shapes import Image, Size
from fullyconv.sizes import padded_size, scaled_size
from fullyconv.stages import FixedMap, Outline, Sizes
from fullyconv.taps import FeatureSpec, Tap

__all__ = [
    "contribution_pictures",
    "describe",
    "figure_files",
    "find_network",
    "outline_of",
    "sizes_of",
    "weights_to_taps",
]


FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def find_network(name: str, classes: int | None = None, settings: Mapping[str, Any] | None = None) -> FCN:
    """Load a model file, or build the network that two names stand for.

    Args:
        name: The path of a model file, or ENCODER+DECODER such as "vgg16+lecture" or "cae:FILE+cae". The latter is
            what `fullyconv train` would build for these names, untrained and, but for an autoencoder, without
            memory for its weights: it can be asked for shapes only.
        classes: Number of classes of a network that is given by names; 2 by default.
        settings: Settings of training that shape a network that is given by names, such as stride and hidden.

    Raises:
        UsageError: Neither a file nor two names; or classes or settings for a file, which has its own.
        ModelFileError: The file is no model file.
    """
    if "+" not in name or Path(name).exists():
        if not Path(name).exists():
            raise UsageError(
                f"expected a model file or ENCODER+DECODER, got {show_path(name)}",
                hint=f"such as RUN/best.safetensors, or {_known()}",
            )
        if classes is not None or settings:
            given = "classes" if classes is not None else next(iter(settings or {}))
            raise UsageError(
                f"a model file has its own settings, got --{given.replace('_', '-')} with {show_path(name)}",
                hint="leave it out, or give ENCODER+DECODER in place of the file",
            )
        return load_model(name)
    encoder, decoder = name.rsplit("+", 1)
    if not (encoder in ENCODER_NAMES or is_cae(encoder) or is_adapted(encoder)) or decoder not in DECODER_NAMES:
        raise UsageError(f"no network {show_path(name)}", hint=_known())
    if not 1 <= (number := 2 if classes is None else classes) <= 255:
        raise UsageError(f"expected 1 to 255 classes, got {number}")
    config = config_from_mapping(
        {"encoder": encoder, "decoder": decoder, "encoder_weights": "none", **(settings or {})}
    )
    table = ClassTable.from_names([f"class {index}" for index in range(number)])
    if is_cae(encoder) or is_adapted(encoder):  # the first is small and read from its file, the others are opened
        return build_model(config, table).eval()
    with torch.device("meta"):
        return build_model(config, table).eval()


def _known() -> str:
    encoders = ", ".join((*ENCODER_NAMES, CAE_PREFIX + "FILE", "timm:NAME", "hf:NAME"))
    return f"an encoder ({encoders}) + a decoder ({', '.join(DECODER_NAMES)})"


def outline_of(model: FCN) -> Outline:
    """Say what a network is made of.

    Args:
        model: Any model; its weights may be missing (on the meta device).
    """
    encoder, decoder = model.encoder, model.decoder
    taps = encoder.network.taps[: encoder.network.taps.index(encoder.taps[-1]) + 1]
    used = weights_to_taps(encoder.network)
    fixed = []
    for scale in encoder.scales:
        before = 0
        for tap in taps:
            fixed.append(
                FixedMap(
                    label=FeatureSpec(tap, scale).label,
                    tap=tap.name,
                    scale=scale,
                    tap_stride=tap.stride,
                    channels=tap.channels,
                    receptive_field=tap.receptive_field / scale,
                    parameters=used[tap] - before,
                    is_read=tap in encoder.taps,
                )
            )
            before = used[tap]
    return Outline(
        encoder=encoder.network.name,
        decoder=decoder.name,
        num_classes=decoder.num_classes,
        fixed=tuple(fixed),
        stages=decoder.stages(),
        stride_grid=encoder.stride_grid,
        fixed_parameters=used[taps[-1]],
        trained_parameters=sum(parameter.numel() for parameter in decoder.parameters()),
        image_channels=len(encoder.input_convention.mean),
        size_policy=encoder.network.size_policy,
        encoder_state=encoder.network.state,
    )


class _UsedWeights(TorchFunctionMode):
    """Notes how many weights have been used when a tensor is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[int, nn.Parameter] = {}
        self.results: list[tuple[object, int]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, nn.Parameter):
                self.used[id(value)] = value
        result = function(*args, **kwargs)
        self.results.append((result, sum(parameter.numel() for parameter in self.used.values())))
        return result

    def weights_of(self, maps: Tensor) -> int:
        """The weights that had been used when these very maps were there."""
        return next(count for result, count in reversed(self.results) if result is maps)


@torch.no_grad()
def weights_to_taps(network: EncoderNetwork) -> dict[Tap, int]:
    """Count the weights on the way to each tap of a network, by watching it compute them.

    Args:
        network: It computes its features one after the other, as deep as they are.
    """
    some, strides = next(network.parameters()), [tap.stride for tap in network.taps]
    channels = len(network.input_convention.mean)
    images = torch.zeros(1, channels, strides[-1], strides[-1], device=some.device, dtype=some.dtype)
    with _UsedWeights() as watched:
        features = network(images, strides)
    return {tap: watched.weights_of(maps) for tap, maps in zip(network.taps, features, strict=True)}


def sizes_of(outline: Outline, size: Size) -> Sizes:
    """Follow an image through a network.

    Args:
        outline: The network.
        size: (height, width) of the image in pixels.

    Raises:
        UsageError: A side of less than one pixel, or a network that pads by itself.
    """
    if outline.size_policy != PAD_TO_STRIDE:
        raise UsageError(
            f"sizes are followed where images are padded to a stride, {outline.encoder} is {outline.size_policy}",
            hint="docs/concepts/decoders.md has the sizes of the released networks",
        )
    if min(size) < 1:
        raise UsageError(f"expected an image of 1x1 pixels or more, got {_text(size)}")
    scales = dict.fromkeys(found.scale for found in outline.fixed)
    scaled = {scale: scaled_size(size, scale) for scale in scales}
    padded = {scale: padded_size(scaled[scale], outline.stride_grid) for scale in scales}
    cells: dict[str, Size] = {}
    for found in outline.fixed:
        height, width = padded[found.scale]
        cells[found.label] = height // found.tap_stride, width // found.tap_stride
    # The grid of the logits belongs to the image at scale 1.
    grid = padded_size(size, outline.stride_grid)
    for stage in outline.stages:
        if stage.kind in ("conv", "score", "projection", "norm", "scale"):
            cells[stage.name] = cells[stage.reads[0]]
        else:
            cells[stage.name] = _cells(grid[0], stage.stride), _cells(grid[1], stage.stride)
    last = cells[outline.stages[-1].name]
    stride = outline.output_stride
    return Sizes(size, scaled, padded, cells, (last[0] * stride, last[1] * stride))


def _cells(pixels: int, stride: float) -> int:
    return int(-(-pixels // stride))


def describe(outline: Outline, sizes: Sizes | None = None) -> str:
    """Put a network, and what becomes of an image in it, into aligned plain text.

    Args:
        outline: The network.
        sizes: Adds the size arithmetic of an image, and a column with the size of each map.
    """
    parts = [_title(outline), *_fixed_table(outline, sizes), "", *_trained_table(outline, sizes), ""]
    if sizes:
        parts += [*_arithmetic(outline, sizes), ""]
    parts += [
        f"{outline.encoder_state}    {outline.fixed_parameters:>12,} parameters",
        f"trained  {outline.trained_parameters:>12,}",
        f"all      {outline.fixed_parameters + outline.trained_parameters:>12,}",
    ]
    return "\n".join(parts)


def _title(outline: Outline) -> str:
    linear = "; the logits are a sum over the feature maps" if outline.is_linear else ""
    policy = f"; sizes: {outline.size_policy}" if outline.size_policy != PAD_TO_STRIDE else ""
    return f"{outline.encoder} + {outline.decoder}, {outline.num_classes} classes{linear}{policy}\n"


def _fixed_table(outline: Outline, sizes: Sizes | None) -> list[str]:
    rows = [(str(outline.encoder_state), "stride", "channels", "receptive field", "parameters", "map", "")]
    for found in outline.fixed:
        again = found.scale != outline.fixed[0].scale  # The same weights see the image at another scale.
        rows.append(
            (
                found.label,
                _number(found.stride),
                f"{found.channels:,}",
                found.sees,
                "as above" if again else f"{found.parameters:,}",
                _text(sizes.cells[found.label]) if sizes else "",
                "" if found.is_read else "not read",
            )
        )
    return _aligned(rows, sizes is not None)


def _trained_table(outline: Outline, sizes: Sizes | None) -> list[str]:
    rows = [("trained", "stride", "channels", "parameters", "map", "what it computes")]
    for stage in outline.stages:
        rows.append(
            (
                stage.name,
                _number(stage.stride),
                f"{stage.channels:,}",
                f"{stage.parameters:,}" if stage.parameters else "-",
                _text(sizes.cells[stage.name]) if sizes else "",
                stage.formula,
            )
        )
    if outline.output_stride > 1:
        classes, last = f"{outline.num_classes:,}", outline.stages[-1].name
        what = f"bilinear of {last}, x{outline.output_stride}"
        rows.append(("mask", "1", classes, "-", _text(sizes.upsampled) if sizes else "", what))
    return _aligned(rows, sizes is not None)


def _arithmetic(outline: Outline, sizes: Sizes) -> list[str]:
    """The way of an image's size: scaled, padded, halved, and back."""
    lines = [f"image {_text(sizes.image)}"]
    for scale, padded in sizes.padded.items():
        enlarged = f"scale {scale:g}: {_text(sizes.scaled[scale])}, " if scale != 1 else ""
        grid = outline.stride_grid
        steps = [2**step for step in range(grid.bit_length()) if grid % 2**step == 0]
        # What is no power of two is no chain of halvings, but patches.
        steps = steps if steps[-1] == grid else [1, grid]
        halvings = [_text((padded[0] // step, padded[1] // step)) for step in steps]
        lines.append(
            f"  {enlarged}padded to multiples of {outline.stride_grid}: {_text(padded)}; "
            f"then {' -> '.join(halvings)}"
        )
    last = outline.stages[-1].name
    up = f", upsampled to {_text(sizes.upsampled)}" if outline.output_stride > 1 else ""
    lines.append(f"logits {_text(sizes.cells[last])}{up}, cropped to {_text(sizes.image)}")
    return lines


def figure_files(out: Path, outline: Outline, *, steps: bool, contributions: bool) -> dict[str, Path]:
    """Name the files of a figure, and refuse what is there already.

    Args:
        out: The file that was asked for: .png, .svg or .pdf.
        outline: The network.
        steps: One file for each step of the drawing, NAME_1.png, NAME_2.png, ..., instead of one.
        contributions: NAME_contributions.png and NAME_skips.png, too.

    Returns:
        Files by what goes into them: "1", "2", ... (the last one alone without `steps`), "contributions", "skips".

    Raises:
        UsageError: Another suffix, no such folder, or a file that is there already.
    """
    if out.suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(f"expected a figure's name to end in {', '.join(FIGURE_SUFFIXES)}, got {show_path(out)}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {show_path(out.absolute().parent)}", hint="make it first")
    last = outline.step_count
    files = (
        {str(step): out.with_stem(f"{out.stem}_{step}") for step in range(1, last + 1)}
        if steps
        else {str(last): out}
    )
    if contributions:
        files["contributions"] = out.with_stem(f"{out.stem}_contributions")
        files["skips"] = out.with_name(f"{out.stem}_skips.png")
    for file in files.values():
        if file.exists():
            raise UsageError(f"{show_path(file)} is there already", hint="choose another name with -o")
    return files


def contribution_pictures(found: Ablation, table: ClassTable) -> dict[str, Figure | Image]:
    """Draw what strides contribute: "contributions", bars; "skips", a few images with ever finer strides."""
    whole = found.whole.mean_iou or 0.0
    without, down_to = (
        [(part.name, part.report.mean_iou or 0.0) for part in parts] for parts in (found.without, found.down_to)
    )
    titles = ["image", "target", *(part.name for part in found.down_to)]
    rows = [
        list(zip(titles, [image, *(colorize(mask, table) for mask in (target, *masks))], strict=True))
        for image, target, masks in found.rows
    ]
    return {"contributions": contributions_figure(whole, without, down_to), "skips": sheet(rows, table)}


def _text(size: Iterable[int]) -> str:
    return "x".join(map(str, size))


def _number(value: float) -> str:
    """A stride in at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _aligned(rows: Sequence[tuple[str, ...]], with_sizes: bool) -> list[str]:
    """Pad cells to columns, numbers to the right; the column "map" only where there are sizes."""
    keep = [index for index, head in enumerate(rows[0]) if head != "map" or with_sizes]
    rows = [tuple(row[index] for index in keep) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *numbers, last in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]).rstrip())
    return lines
