"""Which signed release of a bundle was the newest that this device ran: an older one is refused.

It lives in `$XDG_STATE_HOME/vit-edge/`, apart from the cache, which may be emptied at any time.
What cannot be read here is an error: it must not count as "nothing seen yet".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import RollbackError, SignatureError
from .schema import decode, encode, parse_json
from .writing import locked, write_durably

RELEASE = "release.json"
"""Beside the manifest of a signed bundle, and signed with it."""
MAX_RELEASE_BYTES = 1 << 16
_SEEN, _LOCK = "releases.json", "releases.lock"
_MAX_SEEN_BYTES = 16 << 20
_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True)
class Release:
    """What `release.json` holds: a bundle's place among those that replace one another.

    Attributes:
        name: What they all are, such as "door camera"; a device counts each name by itself.
        number: Grows from release to release.
    """

    name: str
    number: int

    def __post_init__(self) -> None:
        if not 0 < self.number <= _MAX_NUMBER:
            raise ValueError(f"release {self.number} is not between 1 and 2^63 - 1")
        if not self.name.strip():
            raise ValueError("a release has a name")


@dataclass(frozen=True)
class _Seen:
    """The highest release of each key and name: `<fingerprint>/<name>` -> number."""

    releases: dict[str, int]


@dataclass(frozen=True)
class SeenReleases:
    """What this device has seen, on disk; safe with threads and processes."""

    folder: Path

    @classmethod
    def here(cls) -> SeenReleases:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        return cls(Path(home) / "vit-edge")

    def require_not_older(self, key: str, release: Release) -> None:
        """Raises RollbackError if a newer release of this key and name has run here."""
        _compare(self._load().releases, key, release)

    def remember(self, key: str, release: Release) -> None:
        """Keeps `release` as seen. Raises RollbackError as `require_not_older` does.

        Raises:
            SignatureError: if it cannot be written.
        """
        if _compare(self._load().releases, key, release):
            return  # known already: works on a read-only system too
        try:
            with self._locked():
                seen = self._load().releases
                _compare(seen, key, release)
                newer = _Seen({**seen, _line(key, release): release.number})
                write_durably(self.folder / _SEEN, encode(newer).encode())
        except OSError as error:
            raise SignatureError(
                f"{self.folder} cannot be written ({error.strerror}), so an older release would go "
                "unnoticed later: point XDG_STATE_HOME to a folder that survives restarts"
            ) from None

    def _load(self) -> _Seen:
        path = self.folder / _SEEN
        try:
            with open(path, "rb") as file:
                return decode(_Seen, parse_json(file.read(_MAX_SEEN_BYTES)))
        except FileNotFoundError:
            return _Seen({})
        except OSError as error:
            raise SignatureError(
                f"{path}, which says what releases ran here, cannot be read ({error.strerror}): "
                "make it readable, or point XDG_STATE_HOME to another folder"
            ) from None
        except (ValueError, RecursionError) as error:
            raise SignatureError(
                f"{path}, which says what releases ran here, is damaged ({str(error)[:100]}): "
                "delete it if no older release can have been slipped in"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.folder / _LOCK):
            yield


def _line(key: str, release: Release) -> str:
    return f"{key}/{release.name}"


def _compare(seen: dict[str, int], key: str, release: Release) -> bool:
    """Whether exactly this release is the newest seen. Raises RollbackError if it is older."""
    newest = seen.get(_line(key, release), 0)
    if release.number < newest:
        raise RollbackError(
            f"this is release {release.number} of {release.name!r}, but release {newest} has run "
            f"on this device: install release {newest} or a newer one; to go back on purpose, sign "
            f"the old bundle again with a number above {newest}"
        )
    return release.number == newest
