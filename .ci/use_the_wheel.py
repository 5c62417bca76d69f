"""Predict one mask with the installed package, outside the checkout: the pretrained encoder comes along."""

from importlib.resources import files

import numpy as np

import fullyconv
from fullyconv.class_table import ClassTable
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor

assert "site-packages" in fullyconv.__file__, fullyconv.__file__
assert (files("fullyconv") / "serve" / "static" / "index.html").is_file()
model = FCN.build(ClassTable.from_names(["background", "defect"]))
save_model(model, "tiny.safetensors")
image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
mask = Predictor("tiny.safetensors").predict(image)
assert mask.shape == (61, 83), mask.shape
print(f"fullyconv {fullyconv.__version__}: predicted a mask of {mask.shape[0]} x {mask.shape[1]} pixels")
