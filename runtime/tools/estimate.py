"""`vit-edge estimate`: latencies of a bundle's engines on a device, from their builders' plans."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.display import print_table

from .plan.devices import DEVICES, PORTABLE, Device, find_device, nearest_capability
from .plan.engine_plan import EnginePlan, decode_plan
from .plan.show import (
    ESTIMATE_COLUMNS,
    NOTE,
    EstimateRow,
    advice,
    estimate_cells,
    estimate_rows,
)


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Rows for each device, batch size and precision, and what is to be known about them."""

    rows: tuple[EstimateRow, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def add_estimate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--device", action="append", metavar="D", help=f"again for more; of {', '.join(DEVICES)}"
    )
    parser.add_argument("--precision", nargs="+", action="extend", metavar="P", help="default: all")


def run_estimate(arguments: argparse.Namespace) -> int:
    """Prints the estimates. Exit status 0."""
    bundle = Bundle.open(Path(arguments.bundle), arguments.public_key)
    names = arguments.device or list(DEVICES)
    devices = list({device.name: device for device in map(find_device, names)}.values())
    estimates = estimate_bundle(bundle, devices, arguments.precision or ())
    if arguments.json:
        print(json.dumps(_as_json(estimates), indent=2))
        return 0
    print_table(bundle.manifest.name, ESTIMATE_COLUMNS, [estimate_cells(r) for r in estimates.rows])
    for line in (*estimates.advice, *estimates.notes):
        print(line)
    return 0


def estimate_bundle(
    bundle: Bundle, devices: Sequence[Device], precisions: Sequence[str]
) -> Estimates:
    """Estimates the engines of these precisions, of all if none is named.

    Raises:
        InputError: if the bundle has no such precision, or no engine whose builder listed what it
            compiled.
        BundleError: if a plan in the bundle is damaged.
    """
    for precision in precisions:
        Deployment(bundle).candidates(precision)
    rows, notes = list[EstimateRow](), [NOTE]
    for device in devices:
        plans, capabilities = _nearest_plans(bundle, device, precisions)
        rows += estimate_rows(plans, (device,))
        for capability in dict.fromkeys(capabilities):
            if capability != device.capability:
                notes.append(
                    f"{device.name} has compute capability {device.capability}; its estimates are "
                    f"from plans for {capability}"
                )
    if not rows:
        raise InputError(
            "the bundle holds no plan to estimate from: export it with --target tensorrt-rtx, "
            "which needs no GPU"
        )
    return Estimates(tuple(rows), advice(rows), tuple(notes))


def _nearest_plans(
    bundle: Bundle, device: Device, precisions: Sequence[str]
) -> tuple[dict[str, EnginePlan], list[str]]:
    """Each precision's plan for the compute capability that is nearest to the device's."""
    plans, capabilities = dict[str, EnginePlan](), list[str]()
    for name, entry in bundle.manifest.precisions.items():
        if precisions and name not in precisions:
            continue
        files = {
            capability: engine.plan_file
            for engine in entry.engines
            if engine.plan_file
            for capability in engine.compute_capabilities or PORTABLE
        }
        if files:
            capability = nearest_capability(device.capability, tuple(files))
            plan = decode_plan(bundle.read(files[capability]))
            if plan.batches:
                plans[name] = plan
                capabilities.append(capability)
    return plans, capabilities


def _as_json(estimates: Estimates) -> dict[str, object]:
    rows = [
        {
            "device": row.device,
            "precision": row.precision,
            "batch": row.batch,
            **(dataclasses.asdict(row.estimate) if row.estimate else {"milliseconds": None}),
            "images_per_second": row.estimate and row.estimate.images_per_second,
            "bound": row.estimate and row.estimate.bound,
        }
        for row in estimates.rows
    ]
    return {"rows": rows, "advice": estimates.advice, "notes": estimates.notes}
