"""How Sphinx builds the documentation: without a network, from MyST pages and docstrings."""

from __future__ import annotations

from collections.abc import MutableSequence
from importlib import metadata
from typing import Final

from sphinx.application import Sphinx

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


# Of a property or a constant, napoleon takes what stands before the first colon for its type: "The fencing number: grows with
# every change of owner" would be a property of type "The fencing number". These docstrings are kept as they are written.
_AS_WRITTEN: Final = {"attribute", "data", "property"}
_written: Final[dict[str, list[str]]] = {}


def _keep(_app: Sphinx, what: str, name: str, _obj: object, _options: object, lines: MutableSequence[str]) -> None:
    if what in _AS_WRITTEN:
        _written[name] = list(lines)


def _restore(_app: Sphinx, what: str, name: str, _obj: object, _options: object, lines: MutableSequence[str]) -> None:
    if what in _AS_WRITTEN:
        lines[:] = _written.pop(name)


def setup(app: Sphinx) -> None:
    """Called by Sphinx; napoleon's own turn is at 500."""
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
