"""Names for the arrays that pass between modules.

They are aliases for readers and type checkers: nothing is checked at run time, and importing them does not
import torch.

    N images, 3 colours (RGB), H x W pixels, h x w cells of a feature map, C classes, K channels, P pixels
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Features", "Image", "Images", "Logits", "Mask", "Masks", "Pixels", "Points", "Size"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""An image to be looked at, H x W x 3, uint8, RGB, 0..255."""

Pixels: TypeAlias = npt.NDArray[Any]
"""An image on its way to a network: an `Image`, or of another `ImageForm` H x W x K float32, 0..255."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""Class indices, H x W, uint8, 0..C-1; 255 where a pixel is ignored."""

Images: TypeAlias = "Tensor"
"""Images on the way into an encoder, N x K x H x W, uint8 or float, 0..255; K = 3 is RGB."""

Masks: TypeAlias = "Tensor"
"""Class indices, N x H x W, uint8 or int64; 255 = ignored."""

Features: TypeAlias = "list[Tensor]"
"""One N x K x h x w float tensor for each feature spec of an encoder, in the encoder's order."""

Logits: TypeAlias = "Tensor"
"""Class logits at a decoder's output stride (or at full size, where said), N x C x h x w, float."""

Points: TypeAlias = "list[Tensor]"
"""Features read bilinearly at P pixels, one P x K float tensor for each feature spec."""

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""
