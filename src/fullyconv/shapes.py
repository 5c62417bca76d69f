"""Names for the arrays that pass between modules.

They are aliases for readers and type checkers: nothing is checked at run time, and importing them does not
import torch.

    N images, 3 colours (RGB), H x W pixels, h x w cells of a feature map, C classes, K channels, P pixels
"""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Features", "Image", "Images", "Logits", "Mask", "Masks", "Points", "Size"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""H x W x 3, uint8, RGB, 0..255: an image outside the network."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""H x W, uint8: class indices 0..C-1, 255 where a pixel is ignored."""

Images: TypeAlias = "Tensor"
"""N x 3 x H x W, uint8 or float, RGB, 0..255: images on the way into an encoder."""

Masks: TypeAlias = "Tensor"
"""N x H x W, uint8 or int64: class indices, 255 = ignored."""

Features: TypeAlias = "list[Tensor]"
"""One N x K x h x w float tensor for each feature spec of an encoder, in the encoder's order."""

Logits: TypeAlias = "Tensor"
"""N x C x h x w, float: class logits at a decoder's output stride (or at full size, where said)."""

Points: TypeAlias = "list[Tensor]"
"""One P x K float tensor for each feature spec: features read bilinearly at P pixels."""

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""
