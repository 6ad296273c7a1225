"""Sphinx settings."""

import bsam

project = "bsam"
author = "The bsam developers"
release = bsam.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bsam {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
