"""What the how-to for backends shows of the example is what stands in its files."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import Final

import pytest

from tests.docs.test_pages import DOCS

PAGE: Final = (DOCS / "how-to" / "write-a-backend.md").read_text(encoding="utf-8")
EXAMPLE: Final = DOCS / "examples" / "aegis-sqlite"
SETTINGS: Final = re.findall(r"(?ms)^```toml\n# pyproject\.toml\n(.*?)^```$", PAGE)


def bare_class(source: str, name: str) -> str:
    """The class *name* of *source*, without comments, docstrings and annotations, none of which change what it does."""
    (found,) = (it for it in ast.parse(source).body if isinstance(it, ast.ClassDef) and it.name == name)
    for node in ast.walk(found):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            del node.body[0]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(found)


def leaves(table: dict[str, object], *path: str) -> dict[tuple[str, ...], object]:
    """The values of *table* and of the tables in it, by the keys that lead to them."""
    found: dict[tuple[str, ...], object] = {}
    for key, value in table.items():
        found.update(leaves(value, *path, key) if isinstance(value, dict) else {(*path, key): value})
    return found


def test_harness_on_the_page_is_that_of_the_example() -> None:
    """Whole, as the page says."""
    (shown,) = re.findall(r"(?ms)^```python\n# fragment\n(class SqliteHarness\(.*?)^```$", PAGE)
    source = (EXAMPLE / "src" / "aegis_sqlite" / "harness.py").read_text(encoding="utf-8")
    assert bare_class(shown, "SqliteHarness") == bare_class(source, "SqliteHarness")


@pytest.mark.parametrize("shown", SETTINGS, ids=["harness", "distribution"])
def test_settings_on_the_page_stand_in_the_example(shown: str) -> None:
    """Each with the same value; the file has more that concerns the example alone."""
    own = leaves(tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")))
    expected = leaves(tomllib.loads(shown))
    assert expected
    assert {path: own.get(path) for path in expected} == expected


def test_tests_of_the_example_run_on_the_backends_that_the_page_names() -> None:
    """By the same line of the configuration; the file's has more options."""
    (shown,) = re.findall(r'`addopts = \["(--aegis-backend=[\w,]+)"\]`', PAGE)
    own = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    assert shown in own["tool"]["pytest"]["ini_options"]["addopts"]
