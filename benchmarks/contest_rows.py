"""The rows of one model: every quantiser's accuracy, cost and latency, beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vit_edge.calibration.onnx_file import save_onnx

from .contest import ENTRANTS, THREADS, Quantised, quantised
from .environments import python_of
from .measures import Values, faithfulness, lead, relative_error, run, run_once
from .real_subject import RealSubject
from .subjects import Subject, subject

CALIBRATION_IMAGES = 128
_RUNTIMES = {"onnxruntime": "ours", "openvino": "openvino"}

HEAD = (
    "| model | quantiser | top-1 | agreement | KL | 1 - cosine | error | ours ahead in top-1 "
    "| in agreement | seconds | MiB | ms ORT | ms OpenVINO |\n" + "| --- " * 13 + "|"
)


def rows(name: str, cache: Path) -> list[dict[str, Any]]:
    """Compares all entrants on the named model; prints its part of the table."""
    return compare(subject(name, cache), CALIBRATION_IMAGES, cache)


def compare(asked: Subject | RealSubject, calibration: int, cache: Path) -> list[dict[str, Any]]:
    """Compares all entrants, each with so many images to calibrate with; prints the table."""
    name = asked.name
    model, images = write(asked, calibration, cache)
    entries = [quantised(entrant, model, images, cache) for entrant in ENTRANTS]
    reference = run(model, asked.evaluation)
    results, values = [], dict[str, Values]()
    for entry in entries:
        row: dict[str, Any] = {"model": name, "quantiser": entry.entrant.name}
        results.append(row | _judge(entry, asked, reference, values))
    fp32 = {"model": name, "quantiser": "fp32"}
    results.insert(0, fp32 | _accuracy(reference, reference, asked))
    files = {e.entrant.name: e.file for e in entries if e.entrant.name in values}
    for runtime, environment in _RUNTIMES.items():
        _add_latency(results, runtime, environment, {"fp32": model} | files, images, cache)
    print("\n".join([HEAD, *map(_line, results)]), flush=True)
    return results


def write(asked: Subject | RealSubject, count: int, cache: Path) -> tuple[Path, Path]:
    """Writes the fp32 graph and the first `count` calibration images to files."""
    model, images = cache / f"{asked.name}.onnx", cache / f"{asked.name}-{count}.npy"
    save_onnx(asked.graph(), model)
    np.save(images, next(asked.calibration.subset(range(count)).batches(count)))
    return model, images


def _judge(
    entry: Quantised,
    asked: Subject | RealSubject,
    reference: Values,
    values: dict[str, Values],
) -> dict[str, Any]:
    """Measures an entrant's file; adds its output to `values`, of which ours is the first."""
    cost = {"seconds": entry.seconds, "peak_mib": entry.peak_mib}
    if entry.error is not None:
        return cost | {"error": entry.error}
    try:
        got = run_once(entry.file, asked.evaluation)
    except Exception as error:  # ONNX Runtime's own types; what it refuses is the result
        return cost | {"error": f"ONNX Runtime: {str(error).splitlines()[0][:160]}"}
    values[entry.entrant.name] = got
    ours, theirs = asked.logits(next(iter(values.values()))), asked.logits(got)
    labels = asked.evaluation.labels
    assert labels is not None
    leads = {
        "top1": lead(ours, theirs, labels),
        "agreement": lead(ours, theirs, asked.logits(reference).argmax(axis=1)),
    }
    return (
        cost
        | _accuracy(got, reference, asked)
        | {
            f"lead_{measure}": asdict(value) | {"verdict": value.verdict}
            for measure, value in leads.items()
        }
    )


def _accuracy(values: Values, reference: Values, asked: Subject | RealSubject) -> dict[str, Any]:
    assert asked.evaluation.labels is not None
    logits = (asked.logits(values), asked.logits(reference))
    judged = asdict(faithfulness(*logits, asked.evaluation.labels))
    return judged | {"error_rms": relative_error(values, reference)}


def _add_latency(
    results: list[dict[str, Any]],
    runtime: str,
    environment: str,
    files: dict[str, Path],
    images: Path,
    cache: Path,
) -> None:
    """Measures all files in one runtime, in its own process, and adds latencies to their rows."""
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        paths = {name: str(file) for name, file in files.items()}
        job.write_text(json.dumps({"files": paths, "images": str(images)}))
        python = python_of(environment, cache)
        command: list[str | Path]
        command = [python, "-m", "benchmarks.latency", runtime, job, answer]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(THREADS)})
        latencies = json.loads(answer.read_text())
    for row in results:
        row[f"ms_{runtime}"] = latencies["ms"].get(row["quantiser"])
        if row["quantiser"] in latencies["errors"]:
            row[f"error_{runtime}"] = latencies["errors"][row["quantiser"]]


def _line(row: dict[str, Any]) -> str:
    cells = [row["model"], row["quantiser"]]
    if "error" in row:
        return "| " + " | ".join([*cells, row["error"], *[""] * 10]) + " |"
    cells += [f"{row['top1']:.2f}", f"{row['agreement']:.2f}", f"{row['kl']:.1e}"]
    cells += [f"{1 - row['cosine']:.1e}", f"{row['error_rms']:.4f}"]
    cells += [_lead(row.get(f"lead_{measure}")) for measure in ("top1", "agreement")]
    cells += [f"{row[key]:.1f}" if key in row else "" for key in ("seconds", "peak_mib")]
    latencies = [row[f"ms_{runtime}"] for runtime in _RUNTIMES]
    return "| " + " | ".join(cells + [f"{ms:.3f}" if ms else "refused" for ms in latencies]) + " |"


def _lead(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    return f"{value['points']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"
