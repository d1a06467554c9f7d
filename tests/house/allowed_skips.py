"""The tests that may be skipped, each with the reason why that is right."""

from __future__ import annotations

ALLOWED_SKIPS: dict[str, str] = {
    "*test_old_servers.py::test_server_of_an_old_system_is_refused": (
        "Few systems have a server that old; what it answers is played to the client in the tests beside it."
    ),
}
"""Pattern of test ids (as `fnmatch` reads it, from the checkout on) to the reason."""
