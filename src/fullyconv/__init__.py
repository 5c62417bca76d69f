"""Semantic segmentation with fully convolutional networks."""

__version__ = "0.1.0"
