"""What all routes share."""

from dataclasses import dataclass
from pathlib import Path

from fullyconv.errors import UsageError
from fullyconv.predict import Predictor
from fullyconv.serve.limits import Limits
from fullyconv.serve.work import Work

__all__ = ["Context", "UnknownError"]


class UnknownError(UsageError):
    """A name that there is not."""


@dataclass(frozen=True)
class Context:
    """What all routes share.

    Attributes:
        work: The models and the queue before them.
        limits: What is taken.
        folder: For files of requests; nobody else can read it, and it is gone with the service.
        label_studio_images: Where images that Label Studio names are looked for.
    """

    work: Work
    limits: Limits
    folder: Path
    label_studio_images: Path | None = None

    def model(self, name: str | None) -> tuple[str, Predictor]:
        """A model by its name; the first one where none is given.

        Raises:
            UnknownError: There is none of this name.
        """
        models = self.work.models
        if name is None:
            name = next(iter(models))
        if name not in models:
            raise UnknownError(f"there is no model {name[:80]!r}", hint=f"there are {', '.join(models)}")
        return name, models[name]
