"""Predict with what computes fastest: torch, ONNX Runtime (extra `onnx`) or OpenVINO (extra `openvino`).

An exported file holds a network and what `Predictor` has to know of it. It is opened here, by the engine that is
asked for; each engine is imported in one function.
"""

import importlib
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fullyconv.class_table import ClassTable
from fullyconv.device import choose_precision
from fullyconv.errors import DataError, ModelFileError, UsageError, show_path
from fullyconv.image_form import ImageForm
from fullyconv.memory import available_bytes
from fullyconv.predict import Predictor
from fullyconv.shapes import Logits, Pixels, Size
from fullyconv.streaming import RowStream
from fullyconv.tiles import Halo

__all__ = [
    "ENGINES",
    "EXPORTED_SUFFIXES",
    "ExportedPredictor",
    "Facts",
    "is_installed",
    "open_exported",
    "write_bundle",
]

ENGINES = ("torch", "onnx", "openvino")

EXPORTED_SUFFIXES = {".onnx": "onnx", ".openvino": "openvino"}
"""Of exported files, and the engine that a file of each is for."""

FACTS = "fullyconv"
"""Key under which an exported file holds its `Facts`."""

FORMAT_VERSION = 1

HELD_SIZES = 9
"""Of images for which OpenVINO keeps a compiled network: as many as the tiles of an image may have."""

Run = Callable[[Pixels], npt.NDArray[np.float32]]
"""Turns N x H x W x 3 uint8 RGB images (or others: N x H x W x K float32) into N x C x h x w logits."""


@dataclass(frozen=True)
class Facts:
    """What a predictor knows of an exported network, and where that came from.

    Attributes:
        class_table: Of the model, as JSON values.
        output_stride: Pixels between neighbouring logits.
        tile_grid: Pixels between the positions at which a tile can begin.
        halo: How far the logits of a pixel reach: above and left, below and right; None if it is not known.
        bytes_per_pixel: Memory that features and logits take.
        precision: Of the numbers in the file: "float32" or "int8".
        description: What the model file says of the model; its `digest` names the file that was exported.
        versions: Of the libraries that exported it.
        comparison: How its predictions compare with those of the model.
    """

    class_table: dict[str, Any]
    output_stride: int
    tile_grid: int
    halo: tuple[int, int] | None
    bytes_per_pixel: float
    precision: str
    description: dict[str, Any]
    versions: dict[str, str]
    comparison: dict[str, Any]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Facts":
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: It is something else.
        """
        try:
            document = json.loads(text)
            version = document.pop("format_version")
            if version != FORMAT_VERSION:
                raise ModelFileError(
                    f"{where}: expected an exported model of version {FORMAT_VERSION}, got {version}",
                    hint="export the model again",
                )
            facts = cls(**{**document, "halo": document["halo"] and tuple(document["halo"])})
            ClassTable.from_json(facts.class_table)
            ImageForm.from_json(facts.description["encoder"].get("image_form"))
        except (ValueError, TypeError, KeyError, AttributeError, DataError, UsageError) as error:
            raise ModelFileError(f"{where} does not hold what fullyconv exported: {error}") from None
        return facts


class ExportedPredictor(Predictor):
    """A predictor whose logits another engine computes. Large images are cut into tiles.

    Args:
        run: The network.
        facts: What is known of it.
        memory: As of `Predictor`.
        tile: As of `Predictor`.
    """

    def __init__(self, run: Run, facts: Facts, *, memory: int | None = None, tile: int | None = None) -> None:
        self._run = run
        self.facts = facts
        self.device = torch.device("cpu")
        self.class_table = ClassTable.from_json(facts.class_table)
        self.image_form = ImageForm.from_json(facts.description["encoder"].get("image_form"))
        self.output_stride, self.tile_grid = facts.output_stride, facts.tile_grid
        self.halo = None if facts.halo is None else Halo(*facts.halo)
        self.memory = available_bytes() // 2 if memory is None else memory
        self.tile = tile

    @property
    def training_record(self) -> Mapping[str, Any]:
        """What the model's training said of itself."""
        record: Mapping[str, Any] = self.facts.description["training"]
        return record

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that features and logits take for each pixel of a window, measured when it was exported."""
        return self.facts.bytes_per_pixel

    def row_stream(self, size: Size) -> RowStream | None:
        """None: only torch works by rows."""
        return None

    def _in_one_piece(self, size: Size, count: int) -> bool:
        """Not: engines promise no bits of images that are computed with others."""
        return False

    def logits(self, pixels: Pixels) -> Logits:
        """Compute 1 x C x h x w logits at the output stride, of an image or of a window in one piece."""
        return torch.from_numpy(self._run(np.ascontiguousarray(pixels)[None]))


def is_installed(engine: str) -> bool:
    """Whether an engine can be used here."""
    return engine == "torch" or importlib.util.find_spec({"onnx": "onnxruntime"}.get(engine, engine)) is not None


def open_exported(
    path: str | Path,
    *,
    engine: str = "auto",
    precision: str = "auto",
    memory: int | None = None,
    tile: int | None = None,
) -> ExportedPredictor:
    """Open an exported file.

    Args:
        path: A file that `fullyconv.export` wrote, `.onnx` or `.openvino`.
        engine: "auto" for that of the file; an ONNX file can be run by "openvino", too.
        precision: In which OpenVINO computes what is float in the file: "auto", "float32" or "bfloat16".
        memory: As of `Predictor`.
        tile: As of `Predictor`.

    Raises:
        ModelFileError: It is missing, damaged or none that fullyconv exported.
        UsageError: An engine that cannot run it, or that is not installed.
    """
    path = Path(path)
    kind = EXPORTED_SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{show_path(path)}: an exported model ends in {' or '.join(EXPORTED_SUFFIXES)}")
    chosen = kind if engine == "auto" else engine
    if chosen not in (kind, "openvino"):
        raise UsageError(f"{show_path(path)} cannot be run by {chosen}", hint=f"leave --engine out, or use {kind}")
    network, text = _bundle(path) if kind == "openvino" else (_bytes(path), None)
    run, metadata = start(network, chosen, precision, where=show_path(path))
    return ExportedPredictor(run, Facts.from_json(text or metadata, show_path(path)), memory=memory, tile=tile)


def start(
    network: tuple[bytes, ...], engine: str, precision: str = "auto", where: str = "model"
) -> tuple[Run, str]:
    """Load a network into an engine.

    Args:
        network: The bytes of an ONNX file, or of the two parts of an OpenVINO one.
        engine: "onnx" or "openvino".
        precision: Of OpenVINO.
        where: Its name for messages.

    Returns:
        What runs it, and what an ONNX file holds as `Facts` ("" of an OpenVINO one).

    Raises:
        UsageError: The engine is not installed.
        ModelFileError: It cannot load the network.
    """
    if not is_installed(engine):
        raise UsageError(
            f"engine {engine} is not installed", hint=f'install it with: pip install "fullyconv[{engine}]"'
        )
    try:
        return _onnx_runtime(network) if engine == "onnx" else _openvino(network, precision)
    except Exception as error:  # engines raise kinds of their own
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"{where}: {engine} cannot load the network: {reason}") from error


def _onnx_runtime(network: tuple[bytes, ...]) -> tuple[Run, str]:
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it takes a core from others
    session = onnxruntime.InferenceSession(network[0], options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run(None, {images.name: pixels})[0]
        return logits

    return run, session.get_modelmeta().custom_metadata_map.get(FACTS, "")


def _openvino(network: tuple[bytes, ...], precision: str) -> tuple[Run, str]:
    import openvino  # noqa: PLC0415 - an extra

    core = openvino.Core()
    model = core.read_model(*network)
    name = str(choose_precision(precision, torch.device("cpu"))).removeprefix("torch.")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[name],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        # A network for one size is up to half again as fast as one for any size.
        if pixels.shape not in compiled:
            model.reshape({model.input(0).get_any_name(): list(pixels.shape)})
            compiled[pixels.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
            if len(compiled) > HELD_SIZES:
                compiled.popitem(last=False)
        compiled.move_to_end(pixels.shape)
        logits: npt.NDArray[np.float32] = compiled[pixels.shape].infer([pixels])[0].copy()
        return logits

    facts = model.get_rt_info(["framework", FACTS]).value if model.has_rt_info(["framework", FACTS]) else ""
    return run, str(facts)


def write_bundle(path: Path, network: tuple[bytes, ...], facts: Facts) -> None:
    """Put an OpenVINO network into one file: a zip archive of `model.xml`, `model.bin` and `fullyconv.json`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        xml, weights = network
        for name, data in (
            ("model.xml", xml),
            ("model.bin", weights),
            (f"{FACTS}.json", facts.to_json().encode()),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)


def _bundle(path: Path) -> tuple[tuple[bytes, ...], str]:
    """Read what `write_bundle` wrote."""
    _bytes(path)
    try:
        with zipfile.ZipFile(path) as archive:
            xml, weights, facts = (archive.read(name) for name in ("model.xml", "model.bin", f"{FACTS}.json"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFileError(f"{show_path(path)} is no exported model, or damaged: {error}") from None
    return (xml, weights), facts.decode()


def _bytes(path: Path) -> tuple[bytes]:
    try:
        return (path.read_bytes(),)
    except OSError as error:
        raise ModelFileError(f"{show_path(path)}: cannot read the model: {error.strerror or error}") from None
