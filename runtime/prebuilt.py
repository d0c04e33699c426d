"""Which of a bundle's engines opens on this device, and why the others do not."""

from __future__ import annotations

from .backends import Backend
from .manifest import EngineEntry, Manifest


def find_prebuilt(manifest: Manifest, precision: str, backend: Backend) -> EngineEntry | None:
    """The first engine of that precision that the backend opens here; None if there is none."""
    engines = _engines(manifest, precision, backend)
    return next((e for e in engines if backend.engine_problem(e) is None), None)


def passed_over(manifest: Manifest, precision: str, backend: Backend) -> list[str]:
    """Why each of the bundle's engines for that backend does not open here, with the remedy; empty
    if one does, or the bundle has none.
    """
    problems = [backend.engine_problem(e) for e in _engines(manifest, precision, backend)]
    return [] if None in problems else [problem for problem in problems if problem]


def _engines(manifest: Manifest, precision: str, backend: Backend) -> list[EngineEntry]:
    return [e for e in manifest.precisions[precision].engines if e.backend == backend.name]
