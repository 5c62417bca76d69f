"""Independent implementations that tests compare with, and weights for them."""

import pytest
import torch


def import_torchvision():
    """Import torchvision, whose compiled operations may be missing beside a torch without them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_torchvision.kept = library  # The definitions live as long as this object.
    return pytest.importorskip("torchvision")


def random_reference(build):
    """Build a network in eval mode, every weight and statistic of which has a value that shows."""
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu").eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return network
