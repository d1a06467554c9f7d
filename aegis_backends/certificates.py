"""Files of certificates and keys: which of them cannot be used, where OpenSSL does not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aegis_core.errors import ConfigError

__all__ = ["told_with_files"]


@contextmanager
def told_with_files(files: Mapping[str, Path | str | None], expected: str) -> Iterator[None]:
    """Load *files* in the block: parameters of the backend's URL, with the paths that were given.

    Args:
        files: Path by parameter; None where it was not given.
        expected: What they should hold together, in words.

    Raises:
        ConfigError: They cannot be used; names the first that cannot be read, or all of them.
    """
    try:
        yield
    except (OSError, ValueError) as exc:
        given = {name: path for name, path in files.items() if path is not None}
        for name, path in given.items():
            try:
                Path(path).open("rb").close()
            except (OSError, ValueError) as unreadable:
                why = getattr(unreadable, "strerror", None) or str(unreadable)
                problem = f"{path} cannot be read: {why}"
                raise ConfigError(source="backend URL", key=name, problem=problem) from exc
        problem = f"expected {expected} in {' and '.join(map(str, given.values()))}: {exc}"
        raise ConfigError(source="backend URL", key=", ".join(given), problem=problem) from exc
