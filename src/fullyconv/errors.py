"""The errors that fullyconv raises on purpose.

    FullyConvError          anything we can explain; exit code 1
    ├── UsageError          an option or argument that cannot work; exit code 2
    ├── DataError           an image, mask, data set or class table; exit code 2
    ├── WeightsError        pretrained encoder weights; exit code 2
    │   └── DownloadError   they, or a data set, could not be downloaded; exit code 1
    ├── ModelFileError      a model file or checkpoint; exit code 2
    └── TrainingError       a run that cannot go on; exit code 1

Each message is one line: what was expected, what came (name, value, file). The hint says how to fix it.
"""

from pathlib import Path

__all__ = [
    "DataError",
    "DownloadError",
    "FullyConvError",
    "ModelFileError",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "show_path",
]


def show_path(path: str | Path) -> str:
    """A path for a message: one printable line, whatever bytes the name holds."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


class FullyConvError(Exception):
    """A failure with an explanation and, where there is one, a way out.

    Args:
        message: One line: what was expected and what came.
        hint: How to fix it, one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(FullyConvError):
    """An option or argument that cannot work."""

    exit_code = 2


class DataError(FullyConvError):
    """An image, mask, data set or class table that cannot be used."""

    exit_code = 2


class WeightsError(FullyConvError):
    """Pretrained encoder weights that are missing, damaged or of another network."""

    exit_code = 2


class DownloadError(WeightsError):
    """A download that failed through no fault of the user: it may succeed another time."""

    exit_code = 1


class ModelFileError(FullyConvError):
    """A model file or checkpoint that is damaged, unknown or does not fit."""

    exit_code = 2


class TrainingError(FullyConvError):
    """A training run that cannot go on."""
