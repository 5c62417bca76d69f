"""The peer of train_epoch.py: a U-Net of segmentation_models.pytorch with a frozen encoder, elsewhere installed.

    python _peer.py IMAGES.npz CLASSES THREADS BATCH

It imports nothing of fullyconv. First it says what it is, then it answers each line of standard input, a
precision, with one line of JSON: the seconds that a pass over the images took.

The U-Net is made as fast as its usual use allows. The frozen encoder is in eval mode and under no_grad, tensors
are channels-last, and the images are in memory: decoded, normalised and padded, so that a step begins with putting
a batch together. Weights are random, as fast as pretrained ones.
"""

import json
import sys
import time
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ENCODER = "tu-tf_efficientnet_lite0"
MULTIPLE = 32


def import_toolkit() -> ModuleType:
    """Import the toolkit. Its torchvision may lack its compiled operations beside a torch for processors alone."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_toolkit.kept = library  # The definitions live as long as this object.
    import segmentation_models_pytorch  # noqa: PLC0415

    return segmentation_models_pytorch


class UNet:
    """The network, its optimiser and the images.

    Args:
        path: npz with `images`, N x H x W x 3 uint8, and `targets`, N x H x W uint8, 255 where ignored.
        classes: Number of classes.
        batch: Images in a step.
    """

    def __init__(self, path: str, classes: int, batch: int) -> None:
        torch.manual_seed(0)
        toolkit = import_toolkit()
        self.version = toolkit.__version__
        self.network = toolkit.Unet(ENCODER, encoder_weights=None, classes=classes)
        self.network.to(memory_format=torch.channels_last).train()
        self.network.freeze_encoder()
        self.network.encoder.eval()  # `freeze_encoder` leaves dropped paths on.
        self.trained = [weights for weights in self.network.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3)
        self.batch = batch
        with np.load(path) as arrays:
            images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float().sub(127).div(128)
            targets = torch.from_numpy(arrays["targets"]).long()
        below, right = (-side % MULTIPLE for side in targets.shape[1:])
        self.images = functional.pad(images, (0, right, 0, below)).contiguous(memory_format=torch.channels_last)
        self.targets = functional.pad(targets, (0, right, 0, below), value=255)

    def describe(self) -> dict[str, object]:
        """Say what is measured."""
        return {
            "toolkit": f"segmentation_models_pytorch {self.version}",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "encoder": ENCODER,
            "trained_parameters": sum(weights.numel() for weights in self.trained),
            "images": len(self.images),
            "padded_size": list(self.images.shape[2:]),
            "batch": self.batch,
        }

    def logits(self, images: Tensor) -> Tensor:
        """What the network's own `forward` does, its frozen half under no_grad."""
        with torch.no_grad():
            features = self.network.encoder(images)
        return self.network.segmentation_head(self.network.decoder(features))

    def step(self, chosen: Tensor, precision: str) -> None:
        """Take a step of the optimiser on a batch."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = self.logits(self.images[chosen])
            loss = functional.cross_entropy(logits, self.targets[chosen], ignore_index=255)
        loss.backward()
        self.optimizer.step()

    def run(self, precision: str) -> dict[str, float]:
        """Time a pass over the images: on the clock, and the processor's time, summed over threads."""
        clock, processor = time.perf_counter(), time.process_time()
        for chosen in torch.randperm(len(self.images)).split(self.batch):
            self.step(chosen, precision)
        return {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}


def main() -> None:
    """Answer until standard input ends."""
    path, *numbers = sys.argv[1:]
    classes, threads, batch = map(int, numbers)
    torch.set_num_threads(threads)
    unet = UNet(path, classes, batch)
    print(json.dumps(unet.describe()), flush=True)
    for line in sys.stdin:
        print(json.dumps(unet.run(line.strip())), flush=True)


if __name__ == "__main__":
    main()
