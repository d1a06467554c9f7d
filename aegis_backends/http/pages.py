"""Pages that the router shows to people: files of this package, with what keeps a browser from doing more than they need."""

from __future__ import annotations

import functools
import gzip
import hashlib
from functools import partial
from typing import Final

import trio

from aegis_backends.http.routing import Endpoint, Request, Response

__all__ = ["page"]

_HEADERS: Final = (
    (b"cache-control", b"no-cache"),  # kept, and asked for again: after an upgrade nobody sees half of it
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def page(body: bytes, content_type: bytes, *, policy: bytes, is_packed: bool = False) -> Endpoint:
    """An endpoint that answers with a file.

    Args:
        body: The file.
        content_type: What it is.
        policy: The ``Content-Security-Policy`` of it.
        is_packed: *body* is packed by gzip; who cannot read that gets it unpacked.
    """
    tag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
    headers = [(b"etag", tag), (b"content-security-policy", policy), *_HEADERS]
    if is_packed:
        headers.append((b"vary", b"accept-encoding"))
    unpacked = functools.cache(partial(gzip.decompress, body))

    async def answer(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if request.header(b"if-none-match") == tag:
            return Response(status=304, content_type=content_type, headers=headers)
        if not is_packed:
            return Response(body=body, content_type=content_type, headers=headers)
        if b"gzip" in request.header(b"accept-encoding"):
            packed = [*headers, (b"content-encoding", b"gzip")]
            return Response(body=body, content_type=content_type, headers=packed)
        return Response(body=unpacked(), content_type=content_type, headers=headers)

    return answer
