"""`vit-edge inspect --layers`: what each layer of an engine runs in, against what was asked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from .backends.tensorrt import TensorRT
from .backends.tensorrt_layers import Layers
from .bundle import Bundle
from .candidates import Candidate, list_candidates, load_blob, load_graph
from .device_cache import DeviceCache
from .display import print_table
from .errors import BackendError

_COLUMNS = ("layer", "kind", "in", "out", "runs in")
_LONGEST = 60


def read_all(bundle: Bundle, precision: str | None, backend: str | None) -> dict[str, Layers]:
    """The layers of every TensorRT engine of these wishes that opens on this device, by what it is.

    Raises:
        BackendError: if none does.
        EngineError: if the library refuses an engine, or it was built without descriptions.
    """
    candidates = [
        (candidate, candidate.backend)
        for candidate in list_candidates(bundle.manifest, precision, backend)
    ]
    found, problems = {}, []
    for candidate, used in candidates:
        if not isinstance(used, TensorRT):
            problems.append(f"{used.name} has no layers to tell of: TensorRT does")
            continue
        problem = used.run_problem()
        if problem is None:
            found[str(candidate)] = _read(candidate, used, bundle)
        else:
            problems.append(f"{used.name}: {problem}")
    if not found:
        raise BackendError(f"no layers to show here: {'; '.join(dict.fromkeys(problems))}")
    return found


def _read(candidate: Candidate, backend: TensorRT, bundle: Bundle) -> Layers:
    blob = load_blob(candidate, bundle, DeviceCache.of(bundle.digest))
    if blob is None:
        raise BackendError(
            f"no engine for {candidate} on this device: `vit-edge build BUNDLE --target "
            f"{backend.name} --precision {candidate.precision}`"
        )
    graph = load_graph(
        bundle.manifest.precisions[candidate.precision].graphs[backend.graph], bundle
    )
    return backend.layers(blob.data, bundle.manifest.spec, graph.data, graph.external)


def print_json(found: dict[str, Layers]) -> None:
    """Prints one object; its `rows` are the engines."""
    rows: list[dict[str, Any]] = [
        {
            "engine": name,
            "layers": [dataclasses.asdict(layer) for layer in layers.ran],
            "products": [dataclasses.asdict(product) for product in layers.products()],
            "shares": layers.shares(),
        }
        for name, layers in found.items()
    ]
    print(json.dumps({"rows": rows}, indent=2))


def print_tables(found: dict[str, Layers]) -> None:
    """Prints the layers of each engine, and below what became of the graph's matrix products."""
    for name, layers in found.items():
        _print_table(name, layers)


def _print_table(name: str, layers: Layers) -> None:
    rows = [
        (_short(layer.name), layer.kind, _list(layer.inputs), _list(layer.outputs), layer.precision)
        for layer in layers.ran
    ]
    print_table(name, _COLUMNS, rows)
    total = len(layers.ran)
    shares = (f"{kind} {100 * count / total:.0f} %" for kind, count in layers.shares().items())
    print(f"{total} layers: {', '.join(shares)}")
    products = layers.products()
    other = [product for product in products if product.runs != product.asked]
    print(f"{len(products) - len(other)} of {len(products)} matrix products run as the graph asks")
    for product in other:
        print(f"  {product.node}: asked {product.asked}, runs in {product.runs}")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _list(kinds: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(kinds))
