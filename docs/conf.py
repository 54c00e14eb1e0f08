"""Sphinx configuration."""

import re
from typing import Any

import trustml

project = "trustml"
author = "The trustml developers"
project_copyright = "2026, the trustml developers"
release = trustml.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # the notebooks session executes them; building the pages need not
autosummary_generate = True
autodoc_typehints = "none"
_ROUTING = [
    f"set_{name}_request" for name in ("fit", "predict", "predict_proba", "score", "transform")
]
autodoc_default_options = {"exclude-members": ", ".join(_ROUTING)}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Types of third parties and shapes in numpydoc's type slots are prose here, not links.
nitpick_ignore_regex = [("py:.*", r".*")]

html_theme = "pydata_sphinx_theme"
html_title = "trustml"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}


def escape_star_shapes(*event: Any) -> None:
    """Keep the star of shapes such as ``(n, *features)`` from starting an emphasis."""
    lines = event[-1]
    lines[:] = [re.sub(r"(?<=[(,] )\*(?=\w)|(?<=\()\*(?=\w)", r"\\*", line) for line in lines]


def setup(app: Any) -> None:
    """Connect the hook."""
    app.connect("autodoc-process-docstring", escape_star_shapes)
