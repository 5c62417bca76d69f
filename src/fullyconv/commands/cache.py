"""fullyconv cache: info and clear."""

import json
import sys

from fullyconv.commands.arguments import Json

__all__ = ["clear", "info"]


def info(as_json: Json = False) -> None:
    """Say where the feature cache is and what it holds."""
    from fullyconv.feature_cache import FeatureCache

    found = FeatureCache().info()
    if as_json:
        values = {
            "folder": str(found.folder),
            "entries": found.entries,
            "bytes": found.bytes,
            "limit": found.limit,
        }
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        sys.stdout.write(
            f"{found.folder}: {found.entries} entries, "
            f"{found.bytes / 1e9:.2f} GB of at most {found.limit / 1e9:.2f} GB\n"
        )


def clear() -> None:
    """Remove all cached features; they are computed anew when needed."""
    from fullyconv.feature_cache import FeatureCache

    removed = FeatureCache().clear()
    sys.stdout.write(f"removed {removed.entries} entries, {removed.bytes / 1e9:.2f} GB\n")
