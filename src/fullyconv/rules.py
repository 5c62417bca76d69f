"""Rules that turn a mask into pass or fail: how many objects of a class, how large, how long, where.

A rules file is TOML; `docs/how-to/outlines-and-verdicts.md` has an example. Objects are connected areas (pixels
that touch at a corner alone are not connected). Lengths are the greatest distance of two of an object's corners.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError, show_path
from fullyconv.regions import trace
from fullyconv.shapes import Mask

__all__ = ["Rule", "Rules", "Verdict", "judge", "read_rules"]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rule(BaseModel):
    """What a mask may have of one class. An image fails a rule if it has more than one of the limits allows.

    Attributes:
        of: The class, `class` in the file.
        name: Of the rule, for messages; by default the class.
        unit: Of areas and lengths: "px", or "mm", for which the file has to have `mm_per_pixel`.
        region: left, top, right, bottom in pixels: only what lies in there is seen.
        from_area: Objects with a smaller area do not count.
        from_length: Shorter objects do not count.
        max_count: So many objects are allowed.
        max_area: They may have so much area together.
        max_length: None may be longer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(alias="class")
    name: str = ""
    unit: Literal["px", "mm"] = "px"
    region: tuple[int, int, int, int] | None = None
    from_area: Amount = 0
    from_length: Amount = 0
    max_count: Annotated[int, Field(ge=0)] | None = None
    max_area: Amount | None = None
    max_length: Amount | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Rule":
        if self.max_count is None and self.max_area is None and self.max_length is None:
            raise ValueError("give max_count, max_area or max_length")
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError("region has to be left, top, right, bottom in pixels")
        return self


class Rules(BaseModel):
    """A rules file.

    Attributes:
        mm_per_pixel: The side of a pixel in millimetres.
        rule: The rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mm_per_pixel: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    rule: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_a_scale(self) -> "Rules":
        if self.mm_per_pixel is None and any(rule.unit == "mm" for rule in self.rule):
            raise ValueError("rules in mm need mm_per_pixel")
        return self


@dataclass(frozen=True)
class Verdict:
    """What became of one rule on one mask.

    Attributes:
        rule: The rule's name.
        passed: Whether nothing is above a limit.
        count: Objects that count.
        area: Of them together, in the rule's unit, squared.
        length: Of the longest of them, in the rule's unit.
    """

    rule: str
    passed: bool
    count: int
    area: float
    length: float


def read_rules(path: Path, table: ClassTable) -> Rules:
    """Read a rules file.

    Args:
        path: TOML.
        table: The classes that rules may name.

    Raises:
        UsageError: It cannot be read, or a key, value or class is wrong.
    """
    where = show_path(path)
    try:
        rules = Rules.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{where}: cannot read the rules: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: expected TOML, got a file that is none ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{where}: {place or 'rules'}: {what}, got {str(first['input'])[:60]}",
            hint="[[rule]] with class, and max_count, max_area or max_length",
        ) from None
    for rule in rules.rule:
        if rule.of not in table.names:
            raise UsageError(f"{where}: expected a class of the model ({', '.join(table.names)}), got {rule.of!r}")
    return rules


def judge(mask: Mask, table: ClassTable, rules: Rules) -> list[Verdict]:
    """Apply rules to a mask.

    Args:
        mask: H x W class indices.
        table: Their classes.
        rules: Of classes of this table.
    """
    return [_judge(mask, table.names.index(rule.of), rule, rules.mm_per_pixel or 1.0) for rule in rules.rule]


def _judge(mask: Mask, index: int, rule: Rule, mm_per_pixel: float) -> Verdict:
    scale = mm_per_pixel if rule.unit == "mm" else 1.0
    left, top, right, bottom = rule.region or (0, 0, mask.shape[1], mask.shape[0])
    objects = []
    for outline in trace(mask[top:bottom, left:right] == index):
        area, length = outline.pixels() * scale**2, _longest(outline.rings[0]) * scale
        if area >= rule.from_area and length >= rule.from_length:
            objects.append((area, length))
    count, area = len(objects), sum(area for area, _ in objects)
    length = max((length for _, length in objects), default=0.0)
    limits = ((count, rule.max_count), (area, rule.max_area), (length, rule.max_length))
    passed = all(most is None or value <= most for value, most in limits)
    return Verdict(rule.name or rule.of, passed, count, area, length)


def _longest(corners: npt.NDArray[np.float64]) -> float:
    """The greatest distance between two corners: both are on the convex hull."""
    hull = _hull(corners)
    return float(max(np.hypot(*(hull - corner).T).max() for corner in hull))


def _hull(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The convex hull, by Andrew's monotone chain (1979)."""
    points = np.unique(corners, axis=0)
    chains = []
    for ordered in (points, points[::-1]):
        chain: list[npt.NDArray[np.float64]] = []
        for point in ordered:
            while len(chain) > 1 and np.linalg.det(np.stack([chain[-1] - chain[-2], point - chain[-2]])) <= 0:
                chain.pop()
            chain.append(point)
        chains += chain[:-1]
    return np.array(chains)
