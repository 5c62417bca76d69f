"""Small networks of other libraries, and folders of them as transformers writes them."""

import contextlib
import importlib.util
import io
import json

import pytest
import torch

from fullyconv.encoders.adapters import import_library

HF = {
    "resnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 2, 1, 1],
        "layer_type": "basic",
    },
    "convnext": {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "drop_path_rate": 0.9},
    "dinov3_convnext": {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "drop_path_rate": 0.9},
    "swin": {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 6]},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "drop_path_rate": 0.9},
}

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
needs_hf = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra hf")


def hf_folder(root, kind, **changes):
    """Write a folder with a small network of a kind and random weights; its path and the network."""
    transformers = import_library("transformers", "hf")
    config = transformers.AutoConfig.for_model(kind, **{**HF[kind], **changes}).to_dict()
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    if kind != "dinov2":
        config.out_features = config.stage_names[1:]
    network = transformers.AutoBackbone.from_config(config).eval().requires_grad_(False)
    randomise(network)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar
        network.save_pretrained(root / kind)
    return root / kind, network


def randomise(network):
    """Give every weight and statistic a value that shows: layer scales, too."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight", "gamma", "lambda1", "layer_scale_parameter")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3, generator=generator)
    return network
