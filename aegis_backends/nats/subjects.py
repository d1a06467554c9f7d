"""Grammar of subjects: tokens joined by dots; ``*`` stands for one token, ``>`` for all that follow."""

from __future__ import annotations

import re
from typing import Final

from aegis_backends.nats.errors import LocalProtocolError

__all__ = ["check_pattern", "check_queue", "check_subject", "is_reserved"]

_BREAKS_LINES: Final = re.compile(r"[\x00-\x20\x7f]")


def _has_tokens(subject: str) -> bool:
    """Whether *subject* is not empty, has no empty token, and no character that ends a word of a control line."""
    return (
        bool(subject)
        and ".." not in subject
        and subject[0] != "."
        and subject[-1] != "."
        # The first two are quick and nearly always enough: subjects are mostly printable, without a space.
        and ((" " not in subject and subject.isprintable()) or not _BREAKS_LINES.search(subject))
    )


def check_subject(subject: str) -> None:
    """Refuse what cannot be published to.

    Raises:
        LocalProtocolError: An empty token, white space, or a wildcard.
    """
    if not _has_tokens(subject):
        raise LocalProtocolError(f"{subject[:200]!r} is no subject: tokens joined by dots, without white space")
    if ("*" in subject or ">" in subject) and not {"*", ">"}.isdisjoint(subject.split(".")):
        raise LocalProtocolError(f"{subject[:200]!r} has a wildcard: one publishes to one subject")


def check_pattern(subject: str) -> None:
    """Refuse what cannot be subscribed to.

    Raises:
        LocalProtocolError: An empty token, white space, or a ``>`` that is not the last token.
    """
    if not _has_tokens(subject):
        raise LocalProtocolError(f"{subject[:200]!r} is no subject: tokens joined by dots, without white space")
    if ">" in subject.split(".")[:-1]:
        raise LocalProtocolError(f"{subject[:200]!r}: a > can only be the last token")


def is_reserved(reply: str) -> bool:
    """Whether *reply* is a subject of the system's, as ``$KV.bucket.key`` is: no answer is ever published there.

    Who asks names the subject of the answer, and may not be allowed to publish there itself; who answers may be.
    """
    return reply.startswith("$")


def check_queue(queue: str) -> None:
    """Refuse what is no name of a queue group. The empty name, for no group, passes.

    Raises:
        LocalProtocolError: White space in it.
    """
    if _BREAKS_LINES.search(queue):
        raise LocalProtocolError(f"{queue[:200]!r} is no name of a queue group: it has white space")
