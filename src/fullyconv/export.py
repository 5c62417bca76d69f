"""Write a model for another engine, proved on images before its file appears.

The exported network is run on images beside the model itself, by the engine that it is for. How their predictions
compare is printed and travels in the file. `docs/how-to/export-a-model.md` is for users.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.atomic import atomic_path
from fullyconv.dataset import Dataset
from fullyconv.engines import EXPORTED_SUFFIXES, FACTS, ExportedPredictor, Facts, start, write_bundle
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.evaluate import evaluate
from fullyconv.image_form import ImageForm
from fullyconv.onnx_model import onnx_model
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Pixels
from fullyconv.synthetic import draw_sample
from fullyconv.upsample import predict_mask

__all__ = ["Comparison", "compare", "converted", "export_model"]

CALIBRATED_ON = 100
"""Images, at most, whose values decide the ranges of int8."""

COMPARED_ON = 20
"""Images of a data set, at most, on which the exported model is compared with the model."""

SIZES = [(97, 131), (240, 256), (1, 37), (64, 64)]
"""Of the drawn images on which it is compared where there is no data."""

LEAST_AGREEMENT = {"float32": 0.9999, "int8": 0.9}
"""Of the labels, for the file to be written. (Rounding decides where two logits are nearly equal.)"""

EXTRAS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


@dataclass(frozen=True)
class Comparison:
    """How the predictions of an exported model compare with those of the model in float32.

    Attributes:
        images: How many were compared.
        pixels: Of them all.
        agreement: Share of the pixels that have the same class.
        largest_difference: Of two logits, as a share of the range of all logits.
        mean_iou: Of the model on images that calibration did not see, and of the exported one, for int8.
    """

    images: int
    pixels: int
    agreement: float
    largest_difference: float
    mean_iou: tuple[float, float] | None = None

    def __str__(self) -> str:
        words = (
            f"{self.agreement:.4%} of {self.pixels} pixels of {self.images} images have the same class, logits "
            f"differ by at most {self.largest_difference:.1e} of their range"
        )
        if self.mean_iou is not None:
            before, after = self.mean_iou
            words += f"; mean IoU {after:.4f}, before {before:.4f}"
        return words

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "images": self.images,
            "pixels": self.pixels,
            "label_agreement": self.agreement,
            "largest_logit_difference": self.largest_difference,
            "mean_iou": list(self.mean_iou) if self.mean_iou else None,
        }


def export_model(
    predictor: Predictor,
    path: str | Path,
    *,
    int8: bool = False,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Write a model as one file, for images of any size.

    Args:
        predictor: The model, in float32 on the processor.
        path: A file that is not there yet, `.onnx` or `.openvino`.
        int8: Whether to compute with 8 bits, by ranges that values take on images of `data`.
        data: Images to compare on, and for int8 to calibrate on: its train split, or three quarters of it. On the
            others (at best val) the mean IoU is measured before and after.
        progress: Where to report.

    Returns:
        How the exported model compares.

    Raises:
        UsageError: Another suffix, an engine that is not installed, int8 without data, a network that cannot be
            exported, or a file that is there already.
        FullyConvError: The predictions differ by more than rounding (or for int8 more than a tenth of the pixels).
    """
    path, progress = Path(path), progress or Silent()
    kind = EXPORTED_SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: an exported model ends in {' or '.join(EXPORTED_SUFFIXES)}")
    if int8 and data is None:
        raise UsageError("int8 needs images to calibrate on", hint="name a data set with --calibrate DATA")
    calibration, held_back = _parts(data) if data is not None else (None, None)
    with atomic_path(path, overwrite=False) as temporary:
        network, facts = converted(predictor, kind)
        if int8:
            assert calibration is not None
            progress.say(f"calibrating on {min(len(calibration), CALIBRATED_ON)} images")
            network = _quantized(network, kind, _spread(calibration, CALIBRATED_ON))
            facts = replace(facts, precision="int8")
        exported = ExportedPredictor(start(network, kind, "float32")[0], facts)
        images = _drawn(predictor.image_form) if held_back is None else _spread(held_back, COMPARED_ON)
        found = compare(predictor, exported, images)
        if int8 and held_back is not None:
            before = evaluate(predictor, held_back, progress=progress).mean_iou
            after = evaluate(exported, held_back, progress=progress).mean_iou
            if before is not None and after is not None:
                found = replace(found, mean_iou=(before, after))
        if found.agreement < LEAST_AGREEMENT[facts.precision]:
            raise FullyConvError(f"nothing is written, since the exported model differs: {found}")
        _write(temporary, kind, network, replace(facts, comparison=found.to_json()))
    return found


def converted(predictor: Predictor, engine: str) -> tuple[tuple[bytes, ...], Facts]:
    """Turn a model into what an engine loads.

    Args:
        predictor: The model, on the processor.
        engine: "onnx" or "openvino".

    Raises:
        UsageError: A library is missing, or the network cannot be exported.
    """
    onnx, *_ = (_library(name, engine) for name in EXTRAS[engine])
    libraries = ("fullyconv", "torch", *EXTRAS[engine])
    facts = Facts(
        predictor.class_table.to_json(),
        predictor.output_stride,
        predictor.tile_grid,
        (predictor.halo.before, predictor.halo.after) if predictor.halo is not None else None,
        predictor.bytes_per_pixel,
        "float32",
        predictor.model.description(),
        {name: version(name) for name in libraries},
        {},
    )
    network = onnx_model(onnx, predictor.model, {}).SerializeToString()
    if engine == "onnx":
        return (network,), facts
    openvino = _library("openvino", engine)
    return _openvino_bytes(openvino, openvino.Core().read_model(network)), facts


def compare(predictor: Predictor, other: Predictor, images: Iterable[Pixels]) -> Comparison:
    """Compare the predictions of two predictors of one model, image by image."""
    count = pixels = same = 0
    largest = 0.0
    low, high = np.inf, -np.inf
    for image in images:
        size, stride = image.shape[:2], predictor.output_stride
        ours, theirs = predictor.logits(image).cpu(), other.logits(image)
        theirs = theirs[..., : ours.shape[-2], : ours.shape[-1]]
        masks = [predict_mask(logits.contiguous(), stride, size) for logits in (ours, theirs)]
        count, pixels, same = count + 1, pixels + masks[0].numel(), same + int((masks[0] == masks[1]).sum())
        largest = max(largest, float((ours - theirs).abs().max()))
        low, high = min(low, float(ours.min())), max(high, float(ours.max()))
    return Comparison(count, pixels, same / pixels, largest / max(high - low, 1e-30))


def _parts(data: Dataset) -> tuple[Dataset, Dataset]:
    """Split a data set into what int8 is calibrated on and what is held back."""
    if data.has_split("val") or data.has_split("test"):
        held_back = data.split("val" if data.has_split("val") else "test")
        return (data.split("train") if data.has_split("train") else held_back), held_back
    drawn = data.with_seeded_split(0.25, 0)
    return drawn.split("train"), drawn.split("val")


def _spread(data: Dataset, most: int) -> list[Pixels]:
    """Images of a data set, as many as wanted, evenly from its beginning to its end."""
    places = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int))
    return [data.read_image(data[int(place)]) for place in places]


def _drawn(form: ImageForm) -> Iterator[Pixels]:
    for seed, size in enumerate(SIZES):
        image = draw_sample((256, 256), seed)[0][: size[0], : size[1]]
        yield image if form.is_usual else np.resize(image, (*size, form.channels)).astype(np.float32)


def _quantized(network: tuple[bytes, ...], kind: str, images: Sequence[Pixels]) -> tuple[bytes, ...]:
    """Compute with 8 bits (Jacob et al. 2018): per channel for weights, ranges by `images` for maps."""
    nncf = _library("nncf", "openvino")
    library = _library(kind, kind)
    items: list[Any] = [image[None] for image in images]
    if kind == "onnx":
        model = library.load_from_string(network[0])
        items = [{model.graph.input[0].name: item} for item in items]
    else:
        model = library.Core().read_model(*network)
    nncf.set_log_level("ERROR")
    # OpenVINO computes depthwise convolutions in floating point all the same, and would only round before them.
    left = nncf.IgnoredScope(types=["GroupConvolution"], validate=False) if kind == "openvino" else None
    quantized = nncf.quantize(model, nncf.Dataset(items), subset_size=len(items), ignored_scope=left)
    return (quantized.SerializeToString(),) if kind == "onnx" else _openvino_bytes(library, quantized)


def _openvino_bytes(openvino: Any, model: Any) -> tuple[bytes, ...]:
    """What OpenVINO writes in two files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _write(path: Path, kind: str, network: tuple[bytes, ...], facts: Facts) -> None:
    if kind == "openvino":
        write_bundle(path, network, facts)
        return
    onnx = _library("onnx", kind)
    model = onnx.load_from_string(network[0])
    onnx.helper.set_model_props(model, {FACTS: facts.to_json()})
    path.write_bytes(model.SerializeToString())


def _library(name: str, extra: str) -> Any:
    """Import what an extra brings.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return __import__(name)
    except ImportError:
        raise UsageError(
            f"{name} is not installed, which this export needs", hint=f'pip install "fullyconv[{extra}]"'
        ) from None
