"""Holds every use of an emulated object against a recording of the genuine class."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from ..api import MODULE, Api


def enumeration(api: Api, name: str) -> Any:
    """The recorded enumeration."""
    return IntEnum(name, api.enum(name))


class Checked:
    """An emulated object as the genuine class `owner` shows it.

    What the recording lacks is an AttributeError, as it would be on a device, a call that no
    signature takes a TypeError; what the emulation lacks is a NotImplementedError.
    """

    def __init__(self, api: Api, owner: str, target: Any) -> None:
        object.__setattr__(self, "_api", api)
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        if not self._api.has(self._owner, name):
            raise AttributeError(f"{self._api.library} {self._api.version} has no {self._at(name)}")
        try:
            value = getattr(self._target, name)
        except AttributeError:
            raise NotImplementedError(f"not emulated: {self._at(name)}") from None
        signatures = self._api.signatures(self._owner, name)
        return checked_call(self._at(name), signatures, value) if signatures else value

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._api.settable(self._owner, name):
            raise AttributeError(f"{self._at(name)} cannot be assigned")
        setattr(self._target, name, value)

    def _at(self, name: str) -> str:
        return f"{self._owner}.{name}" if self._owner != MODULE else name


def checked_call(name: str, signatures: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called only as one of the signatures allows."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not any(s.takes(len(arguments), tuple(keywords)) for s in signatures):
            raise TypeError(f"{name}(): incompatible function arguments {arguments} {keywords}")
        return function(*map(target, arguments), **{k: target(v) for k, v in keywords.items()})

    return call


def target(value: Any) -> Any:
    """The emulation's own object behind a checked one."""
    return value._target if isinstance(value, Checked) else value
