"""Loss by quantising each layer, from the export's report beside a bundle."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...errors import BundleError
from ...files import Folder
from ...manifest import Graph
from ...schema import SchemaError, decode, parse_json
from .comparison import Sensitivity

_log = logging.getLogger("vit_edge.runtime")
_MOST_BYTES = 16 << 20
_MOST_UNITS = 2000


def read_sensitivities(bundle: Bundle) -> dict[str, tuple[Sensitivity, ...]]:
    """The parts of each quantised precision, in graph order; empty where there is no report of this
    very bundle beside it. Nobody vouches for the report: it is read as strictly as a manifest.
    """
    path = Path(bundle.path).resolve()
    folder = path.with_name(f"{path.name}.report")
    if not folder.is_dir():
        return {}
    try:
        report = parse_json(Folder.open(folder).read("report.json", _MOST_BYTES))
        results = {r["precision"]: r for r in report["results"]}
        if not _belongs(results, bundle):
            return {}
        found = {name: _units(results[name]) for name in bundle.manifest.precisions}
    except (BundleError, SchemaError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("the export's report in %s is not used: %s", folder, str(error)[:200])
        return {}
    return {name: units for name, units in found.items() if units}


def _belongs(results: dict[str, Any], bundle: Bundle) -> bool:
    """Tells whether the report measured what the bundle's manifest says, to the last digit."""
    for name, entry in bundle.manifest.precisions.items():
        if name not in results:
            return False
        measured = {kind: graph["outputs"] for kind, graph in results[name]["graphs"].items()}
        if measured != {kind: _figures(graph) for kind, graph in entry.graphs.items()}:
            return False
    return True


def _figures(graph: Graph) -> dict[str, Any]:
    return {name: dataclasses.asdict(accuracy) for name, accuracy in graph.accuracy.items()}


def _units(result: Any) -> tuple[Sensitivity, ...]:
    units = result["sensitivities"]
    if not isinstance(units, list) or len(units) > _MOST_UNITS:
        raise SchemaError("sensitivities is not a list of a model's parts")
    return tuple(decode(Sensitivity, unit) for unit in units)
