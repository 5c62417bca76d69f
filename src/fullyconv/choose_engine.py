"""Open whatever predicts: a model file by the engine that is asked for or is fastest, or an exported model."""

import time
from pathlib import Path

from fullyconv.engines import ENGINES, EXPORTED_SUFFIXES, ExportedPredictor, is_installed, open_exported, start
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.export import compare, converted
from fullyconv.model_file import load_model
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Pixels

__all__ = ["LEAST_AGREEMENT", "open_predictor"]

LEAST_AGREEMENT = 0.99
"""Share of the labels that an engine has to have in common with torch in float32; bfloat16 has 99 to 99.6 %."""

ROUNDS = 3
"""In which engines take turns; the best time of each counts."""


def open_predictor(
    path: str | Path,
    *,
    engine: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory: int | None = None,
    tile: int | None = None,
    example: str | Path | Pixels | None = None,
    progress: Progress | None = None,
) -> Predictor:
    """Open a model, or an exported one.

    Args:
        path: A model file, `.onnx` or `.openvino`.
        engine: "torch", "onnx" or "openvino", or "auto": the fastest on `example` that agrees with torch on it. By
            default torch for a model file, and that of an exported file.
        device: As of `Predictor`; other engines than torch use the processor.
        precision: As of `Predictor`.
        memory: As of `Predictor`.
        tile: As of `Predictor`.
        example: An image, as `Predictor.predict` takes it, where engines are to be compared.
        progress: Where to say which one was taken.

    Raises:
        UsageError: An engine that there is not, is not installed, or cannot run this.
        ModelFileError: A file that is damaged.
    """
    if engine not in (None, "auto", *ENGINES):
        raise UsageError(f"an engine is auto, {', '.join(ENGINES)}, got {engine}")
    if Path(path).suffix.lower() in EXPORTED_SUFFIXES:
        return open_exported(path, engine=engine or "auto", precision=precision, memory=memory, tile=tile)
    ours = Predictor(path, device=device, precision=precision, memory=memory, tile=tile)
    if engine in (None, "torch"):
        return ours
    if engine != "auto":
        return _converted(path, engine, precision, memory, tile)
    if example is None or ours.device.type != "cpu":
        return ours
    return _fastest(ours, path, precision, ours.pixels_of(example), progress or Silent())


def _converted(path: str | Path, engine: str, precision: str, memory: int | None, tile: int | None) -> Predictor:
    plain = Predictor(load_model(Path(path)), device="cpu", precision="float32")
    network, facts = converted(plain, engine)
    return ExportedPredictor(start(network, engine, precision)[0], facts, memory=memory, tile=tile)


def _fastest(ours: Predictor, path: str | Path, precision: str, example: Pixels, progress: Progress) -> Predictor:
    """Let engines take turns on an image, and take the fastest that agrees with torch in float32."""
    candidates: dict[str, Predictor] = {"torch": ours}
    exact = Predictor(load_model(Path(path)), device="cpu", precision="float32")
    for engine in ENGINES:
        if engine != "torch" and is_installed(engine):
            try:
                other = _converted(path, engine, precision, ours.memory, ours.tile)
                agreement = compare(exact, other, [example]).agreement
            except FullyConvError as error:
                progress.say(f"engine {engine}: {error.message}")
                continue
            if agreement >= LEAST_AGREEMENT:
                candidates[engine] = other
            else:
                progress.say(f"engine {engine} has {agreement:.2%} of the labels in common with torch: not taken")
    times: dict[str, float] = {}
    for _ in range(ROUNDS):
        for engine, predictor in candidates.items():
            began = time.perf_counter()
            predictor.logits(example)
            times[engine] = min(time.perf_counter() - began, times.get(engine, float("inf")))
    best = min(times, key=times.__getitem__)
    words = ", ".join(f"{engine} {seconds * 1000:.0f} ms" for engine, seconds in times.items())
    progress.say(f"engine {best}: the fastest on the first image ({words})")
    return candidates[best]
