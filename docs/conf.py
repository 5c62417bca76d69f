"""How the documentation is built: `make docs`."""

import re
from pathlib import Path

import fastapi  # noqa: F401 - before autodoc, which imports with TYPE_CHECKING set: pydantic cannot have that

ROOT = Path(__file__).parents[1]

project = "fullyconv"
copyright = "the fullyconv authors"
release = re.search(r'__version__ = "(.+)"', (ROOT / "src/fullyconv/__init__.py").read_text())[1]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"fullyconv {release}"

# Docstrings are Markdown by habit: `name` is code, not a cross-reference.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# The names of other projects have no page here, and the build does not use the network; nor have type variables
# and private names, which signatures show.
nitpick_ignore_regex = [(r"py:.*", r"(?!fullyconv\.).*"), (r"py:class", r"fullyconv\..*\.(T|Settings|_\w+)")]


def setup(app):
    app.connect("autodoc-process-signature", shorten_signature)


def shorten_signature(app, what, name, obj, options, signature, return_annotation):
    """The page has a table of the settings: their types with all bounds make a signature that nobody can read."""
    return ("(**settings)", None) if name == "fullyconv.config.TrainConfig" else None
