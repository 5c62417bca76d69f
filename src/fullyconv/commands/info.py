"""fullyconv info."""

import json
import sys
import typing
from typing import Any

from fullyconv.commands.arguments import Json, Model

if typing.TYPE_CHECKING:
    from fullyconv.predict import Predictor

__all__ = ["info"]

EXAMPLE = (10_000, 10_000)
"""Size of the image for which it is said how it would be cut."""


def info(model: Model, as_json: Json = False) -> None:
    """Describe a model file, and how a large image would be predicted."""
    from fullyconv.memory import shown_bytes
    from fullyconv.model import describe
    from fullyconv.model_file import read_description
    from fullyconv.predict import Predictor

    description = read_description(model)
    found = _tiling(Predictor(model))
    if as_json:
        sys.stdout.write(json.dumps({**description, "tiling": found}, allow_nan=False) + "\n")
        return
    rows, columns = EXAMPLE
    lines = [
        describe(description),
        f"large images     {rows} x {columns} px: {found['rows']} rows at a time, beside them "
        f"{shown_bytes(found['kept_bytes'])} of rows that wait",
    ]
    if found["halo"] is None:
        lines.append("halo             the whole image: tiles cannot be exact")
    else:
        before, after = found["halo"]
        lines.append(
            f"halo             {before} px above and left, {after} px below and right; tiles begin on a grid of "
            f"{found['grid']} px"
        )
        lines.append(
            f"tiles            {rows} x {columns} px with {shown_bytes(found['memory'])} (--memory), "
            f"{found['bytes_per_pixel']:.0f} bytes a pixel: {found['tiles']} of "
            f"{' x '.join(map(str, found['sides']))} px, {found['recomputed']:.0%} computed twice"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def _tiling(predictor: "Predictor") -> dict[str, Any]:
    """How far the model sees, and what becomes of a large image with the memory that is there."""
    from fullyconv.tiles import share_computed

    stream = predictor.row_stream(EXAMPLE)
    rows = 0 if stream is None else predictor.rows_at_a_time(stream)
    found = {
        "halo": None,
        "grid": predictor.tile_grid,
        "bytes_per_pixel": round(predictor.bytes_per_pixel, 1),
        "memory": predictor.memory,
        "rows": rows,
        "kept_bytes": stream.kept_bytes(rows) if stream is not None and rows else 0,
    }
    if predictor.halo is None:
        return found
    tiles = predictor.tiles(EXAMPLE)
    return {
        **found,
        "halo": [predictor.halo.before, predictor.halo.after],
        "tiles": len(tiles),
        "sides": list(tiles[0].area.size),
        "recomputed": round(share_computed(tiles) - 1, 4),
    }
