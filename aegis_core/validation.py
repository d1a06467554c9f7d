"""What every store refuses before it sends anything: one check of a transaction's form, for all of them."""

from __future__ import annotations

import math
import re
from typing import Final

from aegis_core.backend import Capabilities, Put, Transaction

__all__ = ["is_key", "validate_transaction"]

_KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*")
_MAX_KEY: Final = 3500
_ID: Final = re.compile(r"[!-~]{1,128}")


def is_key(text: str) -> bool:
    """Whether a store can have *text* as a key: tokens of ``[A-Za-z0-9_=/-]`` joined by dots, at most 3,500 characters."""
    return len(text) <= _MAX_KEY and _KEY.fullmatch(text) is not None


def validate_transaction(transaction: Transaction, capabilities: Capabilities) -> None:
    """Refuse what no state of a store with these *capabilities* could take; `Store.commit` calls it first.

    Args:
        transaction: Judged by its form alone: how many operations, its id, keys, the sizes of values, and TTLs.
        capabilities: The limits to keep.

    Raises:
        ValueError: Says what, and of which key.
    """
    count = len(transaction.operations)
    if count > capabilities.max_transaction:
        raise ValueError(f"a transaction has at most {capabilities.max_transaction} operations, this one {count}")
    if not _ID.fullmatch(transaction.id):
        raise ValueError(f"{transaction.id[:80]!r} is no transaction's id: 1 to 128 visible ASCII characters")
    for op in transaction.operations:
        key = op.key
        if not is_key(key):
            raise ValueError(f"{key[:80]!r} is not a key: tokens of A-Z a-z 0-9 _ = / - joined by dots")
        if isinstance(op, Put):
            if len(op.value) > capabilities.max_value:
                raise ValueError(f"a value has at most {capabilities.max_value} bytes, that of {key!r} {len(op.value)}")
            if op.ttl is not None and not capabilities.min_ttl <= op.ttl < math.inf:
                raise ValueError(f"a TTL is at least {capabilities.min_ttl:g} s, that of {key!r} {op.ttl:g}")
