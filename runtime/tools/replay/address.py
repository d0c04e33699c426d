"""Addresses of models on inference servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...errors import InputError

FORM = "grpc://HOST:8001/MODEL or http://HOST:8000/MODEL, with /versions/N behind it if you like"
_PROTOCOLS = {"grpc": ("grpc", False), "grpcs": ("grpc", True),
              "http": ("http", False), "https": ("http", True)}  # fmt: skip
_PATH = re.compile(r"(?:/v2/models)?/([^/]+)(?:/versions/([0-9]+))?/?")


@dataclass(frozen=True)
class Address:
    """Model on a server.

    Attributes:
        protocol: "grpc" or "http".
        secure: True for TLS.
        host: With its port.
        model: The model's name.
        version: Its version; "" for the one that the server chooses.
    """

    protocol: str
    secure: bool
    host: str
    model: str
    version: str = ""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        secure = "s" if self.secure else ""
        return f"{self.protocol}{secure}://{self.host}/{self.model}{version}"


def parse_address(url: str) -> Address:
    """Reads an address.

    Raises:
        InputError: if it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"--url {url[:200]!r}: {error}; give {FORM}") from None
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in _PROTOCOLS or not parts.hostname or not path:
        raise InputError(f"--url {url[:200]!r} is no address of a model: give {FORM}")
    if parts.query or parts.fragment or parts.username is not None:
        raise InputError(f"--url {url[:200]!r} has more than a host and a model: give {FORM}")
    if port is None:
        raise InputError(f"--url {url[:200]!r} has no port: give {FORM}")
    protocol, secure = _PROTOCOLS[parts.scheme]
    return Address(protocol, secure, parts.netloc, path[1], path[2] or "")
