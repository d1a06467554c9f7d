"""How Sphinx builds the documentation: without a network, from MyST pages and docstrings."""

from __future__ import annotations

from importlib import metadata

project = "AegisIPC"
author = "The AegisIPC developers"
copyright = author
release = metadata.version("aegis-ipc")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changes", "examples"]

# `name` in a docstring is code, as in Markdown.
default_role = "code"
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Classes are shown in the order of their source, which is written to be read.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "AegisIPC"
html_show_sphinx = False
