"""Options that many commands have, so that they mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

__all__ = ["AsJson", "BackendUrl", "InService", "Timeout"]

BackendUrl = Annotated[
    str | None,
    Parameter(
        name="--backend",
        help="URL of the backend: nats://127.0.0.1:4222, or http://router:8700 for a router. If left out: AEGIS_BACKEND, or the "
        "key backend in aegis.toml.",
    ),
]

Timeout = Annotated[
    float,
    Parameter(
        name="--timeout",
        validator=Number(gt=0),
        help="Seconds for the connection, and for each request to the backend.",
    ),
]

AsJson = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help="Print JSON, for programs.")]

InService = Annotated[
    str | None, Parameter(name="--service", help="The service; needed where instances of several have that id.")
]
