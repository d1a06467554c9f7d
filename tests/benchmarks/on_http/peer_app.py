"""The echo as FastAPI has it."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

__all__ = ["app"]

app = FastAPI()


class Data(BaseModel):
    """What is sent, and comes back."""

    data: str


@app.post("/echo")
async def echo(asked: Data) -> Data:
    """Answer what was sent."""
    return asked
