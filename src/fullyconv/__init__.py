"""Semantic segmentation with fully convolutional networks: a fixed encoder, a small trained decoder.

    from fullyconv import Dataset, Predictor, evaluate, train

The names here are loaded when they are first used: importing `fullyconv` alone imports no torch. Everything
else is imported from its module, `fullyconv.encoder` for example.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv.class_table import ClassTable
    from fullyconv.config import TrainConfig
    from fullyconv.dataset import Dataset
    from fullyconv.evaluate import evaluate
    from fullyconv.model import FCN
    from fullyconv.model_file import load_model
    from fullyconv.predict import Predictor
    from fullyconv.train import train

__all__ = [
    "FCN",
    "ClassTable",
    "Dataset",
    "Predictor",
    "TrainConfig",
    "__version__",
    "evaluate",
    "load_model",
    "train",
]

__version__ = "0.1.0"

_MODULE_OF = {
    "FCN": "fullyconv.model",
    "ClassTable": "fullyconv.class_table",
    "Dataset": "fullyconv.dataset",
    "Predictor": "fullyconv.predict",
    "TrainConfig": "fullyconv.config",
    "evaluate": "fullyconv.evaluate",
    "load_model": "fullyconv.model_file",
    "train": "fullyconv.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Facade(ModuleType):
    """Keeps `fullyconv.train` the function.

    Importing the module `fullyconv.train` would bind the module to that name, and `from fullyconv import
    train` would give the one or the other depending on what was imported before.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Facade
