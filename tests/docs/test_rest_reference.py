"""The page of the reference on REST says what the OpenAPI document does."""

from __future__ import annotations

from tests.docs.rest_page import PAGE, load, render


async def test_page_is_made_from_the_document() -> None:
    """Renew it by ``python -m tests.docs.rest_page``."""
    assert PAGE.read_text(encoding="utf-8") == render(await load())
