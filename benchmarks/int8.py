"""What 8 bits cost: mean IoU of a model quantised after training, and of one trained on 8-bit features.

    python benchmarks/int8.py ../shared/data/camvid --ignore 11 --recipes fast default

For each recipe three numbers on the val split, each for the same seed:

    float32                    trained on and measured with features in float32
    int8 after training        the same model, exported by `fullyconv export --int8`
    int8 before training       the fixed encoder is quantised first, and the decoder learns on its features

and, of a pass of the encoder over val images (one after the other, all threads), how many times faster int8 is
than torch in float32 and in bfloat16; and the share of val pixels whose class bfloat16 does not change.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino
import torch
from _machine import machine, open_or_draw, write_results
from torch import Tensor

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.device import set_threads
from fullyconv.encoder import Encoder, EncoderNetwork
from fullyconv.evaluate import evaluate
from fullyconv.export import _openvino_bytes, _quantized, export_model
from fullyconv.feature_cache import FeatureCache
from fullyconv.model import FCN
from fullyconv.onnx_graph import OPSET, OnnxGraph
from fullyconv.predict import Predictor
from fullyconv.sizes import pad_to_multiple, resize_by
from fullyconv.train import train

CALIBRATED_ON = 60


class QuantizedNetwork(EncoderNetwork):
    """An encoder's network with 8 bits, run by OpenVINO."""

    def __init__(self, network: tuple[bytes, bytes]) -> None:
        super().__init__()
        self.model = openvino.Core().read_model(*network)
        self.threads = threading.local()  # a request serves one thread

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute all features of the encoder."""
        requests = self.threads.__dict__.setdefault("requests", {})
        if images.shape not in requests:
            settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            model = self.model.clone()
            model.reshape(list(images.shape))
            requests[images.shape] = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        found = requests[images.shape].infer([images.float().contiguous().numpy()])
        return [torch.from_numpy(maps.copy()) for maps in found.values()]


def quantized(encoder: Encoder, images: list[np.ndarray]) -> QuantizedNetwork:
    """Quantise an encoder's network on images, as the encoder feeds them to it."""
    graph, network = OnnxGraph(onnx), encoder.network.folded().eval()
    names = graph.traced(lambda x: network(x, encoder.strides), "maps", 3, 2 * encoder.stride_grid)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in names]
    inputs = [helper.make_tensor_value_info("maps", kind, ["batch", 3, "height", "width"])]
    whole = helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    network_bytes = _openvino_bytes(openvino, openvino.Core().read_model(model.SerializeToString()))
    maps = []
    for number, pixels in enumerate(images):
        scale = encoder.scales[number % len(encoder.scales)]
        scaled = resize_by(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float(), scale)
        maps.append(pad_to_multiple(encoder.normalise(scaled), encoder.stride_grid)[0].numpy())
    return QuantizedNetwork(_quantized(network_bytes, "openvino", maps))


def pass_seconds(encoder: Encoder, images: list[np.ndarray]) -> float:
    """Median seconds of an image through an encoder."""
    seconds = []
    for pixels in [images[0], *images]:
        began = time.perf_counter()
        encoder(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def agreement(model: Path, images: list[np.ndarray]) -> float:
    """Share of the pixels that have the same class in bfloat16 as in float32."""
    exact, quick = (Predictor(model, device="cpu", precision=name) for name in ("float32", "bfloat16"))
    return float(np.mean([np.mean(exact.predict(image) == quick.predict(image)) for image in images]))


def measure(name: str, dataset: Dataset, seed: int, folder: Path) -> dict[str, object]:
    """All numbers of a recipe."""
    train_split, val = dataset.split("train"), dataset.split("val")
    step = max(1, len(train_split) // CALIBRATED_ON)
    calibration = [train_split.read_image(sample) for sample in list(train_split)[::step]]
    images = [val.read_image(sample) for sample in list(val)[:: max(1, len(val) // 20)]]
    config = recipe(name, seed=seed, precision="float32")
    (folder / "float").mkdir(parents=True)
    (folder / "int8").mkdir()
    plain = train(dataset, folder / "float", config, cache=FeatureCache(folder / "a"))
    predictor = Predictor(plain.model, device="cpu", precision="float32")
    after = export_model(predictor, folder / "model.openvino", int8=True, data=dataset)
    encoder = predictor.model.encoder
    network = quantized(encoder, calibration)
    times = {"float32": pass_seconds(encoder, images)}
    times["bfloat16"] = pass_seconds(encoder.set_precision(torch.bfloat16), images)
    module = sys.modules["fullyconv.session"]
    build = module.build_model

    def build_quantized(*arguments: object) -> FCN:
        model = build(*arguments)
        model.encoder.network.folded = lambda: network
        return model

    module.build_model = build_quantized
    try:
        before = train(dataset, folder / "int8", config, cache=FeatureCache(folder / "b"))
    finally:
        module.build_model = build
    encoder.set_precision(torch.float32).network.folded = lambda: network
    encoder._working = ()
    times["int8"] = pass_seconds(encoder, images)
    return {
        "recipe": name,
        "float32": evaluate(Predictor(plain.model, device="cpu", precision="float32"), val).mean_iou,
        "int8_after": after.mean_iou[1],
        "int8_before": before.report.mean_iou,
        "times": times,
        "bfloat16_agreement": agreement(plain.model, images),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set; drawn if not given")
    parser.add_argument("--ignore", type=int, nargs="*", default=[])
    parser.add_argument("--recipes", nargs="*", default=["fast", "default"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_threads(None)
    lines = [
        "| recipe | float32 | int8 after training | int8 before training | "
        "encoder: int8 faster than float32, bfloat16 | labels kept by bfloat16 |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_or_draw(arguments.data, tuple(arguments.ignore), Path(folder, "data"))
        for name in arguments.recipes:
            rows.append(row := measure(name, dataset, arguments.seed, Path(folder, name)))
            times = row["times"]
            lines.append(
                f"| {name} | {row['float32']:.4f} | "
                f"{row['int8_after']:.4f} ({row['int8_after'] - row['float32']:+.4f}) | "
                f"{row['int8_before']:.4f} ({row['int8_before'] - row['float32']:+.4f}) | "
                f"{times['float32'] / times['int8']:.1f}, {times['bfloat16'] / times['int8']:.1f} | "
                f"{row['bfloat16_agreement']:.2%} |"
            )
    if arguments.json:
        print(json.dumps({**machine(), "rows": rows}))
        return
    print("\n".join(lines))
    print(write_results("int8", lines))


if __name__ == "__main__":
    main()
