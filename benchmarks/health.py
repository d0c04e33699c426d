"""Drift without labels: what watching costs, how often it is wrong, and what it sees.

    python -m benchmarks.health [--rounds 200] [--windows 10000] [--markdown docs/health.md]

Needs the packages of the extras `dev` and `export`, and scikit-image for its photographs. Three
parts, in `benchmarks/results/health.json` and as tables in the document:

- Cost: calls of a ViT-Ti/16 of one image with and without observers take turns on one session; the
  median of their differences in CPU time, relative to the median of the calls without, on one
  thread. CPU time, for other programs may run on the machine.
- False alarms: reference and window are drawn from images of one kind, again and again.
- Detection: windows of distorted images, the share of them that is called drift at the default rate
  of false alarms. Colored images are judged by their pixels alone, digits by their trained model
  too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime import Engine
from vit_edge.runtime.backends.cpu import cpu_name
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.observer import ObservedCalls, Observer
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.health import DriftMonitor, HealthMetrics
from vit_edge.runtime.tools.health.drift import ALARM_RATE, EVERY, WINDOW
from vit_edge.runtime.tools.health.judge import judge
from vit_edge.runtime.tools.health.statistics import (
    Floats,
    ReferenceStatistics,
    input_names,
    measure,
    measure_frames,
    statistic_names,
)
from vit_edge.vit.datasets import digits
from vit_edge.vit.variants import find_variant

from . import distortions as d
from .documents import put_into

OUT = Path(__file__).parent / "results" / "health.json"
MODEL, BACKENDS, PRECISIONS = "vit_tiny_patch16_224", ("openvino", "onnxruntime"), ("fp32", "int8")
PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
REFERENCE, POOL, DIGIT_REFERENCE = 600, 600, 500
WINDOWS = (32, WINDOW)
TRIALS = 200
RATES = (1e-2, ALARM_RATE)
SIDE = 224
PARTS = ("cost", "colors", "digits")
WARM_UP = 10

Frames = NDArray[np.uint8]
COLOR_DRIFTS: dict[str, Callable[[Frames], Frames]] = {
    "none": lambda x: x,
    "brightness +25 %": lambda x: d.scaled(x, 1.25),
    "brightness -25 %": lambda x: d.scaled(x, 0.75),
    "brightness +10 %": lambda x: d.scaled(x, 1.1),
    "brightness -10 %": lambda x: d.scaled(x, 0.9),
    "gamma 1.5": lambda x: d.gamma(x, 1.5),
    "gamma 0.67": lambda x: d.gamma(x, 0.67),
    "contrast x 0.7": lambda x: d.less_contrast(x, 0.7),
    "blur, 0.5 pixels": lambda x: d.blurred(x, 0.5),
    "blur, 1 pixel": lambda x: d.blurred(x, 1),
    "blur, 2 pixels": lambda x: d.blurred(x, 2),
    "BGR for RGB": d.swapped,
    "grey": d.grey,
    "red +15 %, blue -15 %": lambda x: d.tinted(x, 0.15),
    "noise, deviation 5": lambda x: d.noisy(x, 5),
    "noise, deviation 10": lambda x: d.noisy(x, 10),
    "crop too small, x 1.25": lambda x: d.zoomed(x, 1.25),
    "crop too small, x 1.5": lambda x: d.zoomed(x, 1.5),
    "crop too small, x 2": lambda x: d.zoomed(x, 2),
    "crop too large, x 0.8": lambda x: d.zoomed(x, 0.8),
    "75 % of the resolution": lambda x: d.upscaled(x, 0.75),
    "50 % of the resolution": lambda x: d.upscaled(x, 0.5),
    "bars of 5 %": lambda x: d.barred(x, 0.05),
    "mirrored": lambda x: x[:, :, ::-1],
    "upside down": lambda x: x[:, ::-1],
    "frozen": d.frozen,
}
DIGIT_DRIFTS: dict[str, Callable[[Frames], Frames]] = {
    "none": lambda x: x,
    "brightness +25 %": lambda x: d.scaled(x, 1.25),
    "brightness -25 %": lambda x: d.scaled(x, 0.75),
    "brightness -10 %": lambda x: d.scaled(x, 0.9),
    "gamma 1.5": lambda x: d.gamma(x, 1.5),
    "gamma 0.67": lambda x: d.gamma(x, 0.67),
    "blur, 0.5 pixels": lambda x: d.blurred(x, 0.5),
    "noise, deviation 10": lambda x: d.noisy(x, 10),
    "noise, deviation 25": lambda x: d.noisy(x, 25),
    "crop too small, x 1.25": lambda x: d.zoomed(x, 1.25),
    "crop too large, x 0.8": lambda x: d.zoomed(x, 0.8),
    "shifted by a pixel": lambda x: np.roll(x, 1, axis=2),
    "upside down": lambda x: x[:, ::-1],
    "turned by 90 degrees": lambda x: np.rot90(x, 1, (1, 2)),
    "inverted": lambda x: 255 - x,
    "frozen": d.frozen,
}


def export(folder: Path, **options: Any) -> Path:
    """Exports a bundle; its weights are random, or digits'."""
    out = folder / str(options.get("model"))
    request = ExportRequest(out=out, targets=("onnxruntime",), **options)
    if not export_bundle(request, Display()).good:
        raise RuntimeError(f"{out.name} did not meet its budget")
    return out


def measure_cost(bundle: Path, backend: str, precision: str, rounds: int) -> list[dict[str, Any]]:
    """Rows for the observers: the median of what each adds to a call, with its 95 % interval.

    A round is `EVERY` calls with each observer and without any, of which one is measured.
    """
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    provider = MeterProvider([InMemoryMetricReader()])
    observers: dict[str, Observer] = {
        "drift": DriftMonitor(bundle),
        "drift and metrics": HealthMetrics(DriftMonitor(bundle), provider),
        "drift, each image": DriftMonitor(bundle, every=1),
    }
    rows = []
    with Engine.load(bundle, precision, backend, threads=1) as engine:
        watches = [ObservedCalls(own, engine.info, engine.outputs) for own in observers.values()]
        contenders = [None, *watches]
        times = np.empty((rounds + WARM_UP, len(contenders)))
        for index in range(len(times)):
            for place in generator.permutation(len(contenders)):
                engine._watch = contenders[place]
                start = time.process_time_ns()
                for _ in range(EVERY):
                    engine(frame)
                times[index, place] = (time.process_time_ns() - start) / 1e3 / EVERY
        times = times[WARM_UP:]
        plain = float(np.median(times[:, 0]))
        for index, name in enumerate(observers, 1):
            added = times[:, index] - times[:, 0]
            resampled = np.median(generator.choice(added, (1000, rounds)), axis=1)
            rows.append(
                {
                    "backend": f"{backend} {engine.info.version.split('-')[0]}",
                    "precision": precision,
                    "threads": engine.info.threads,
                    "observer": name,
                    "plain_us": plain,
                    "added_us": float(np.median(added)),
                    "added_95": [float(q) for q in np.percentile(resampled, [2.5, 97.5])],
                    "added_share": float(np.median(added)) / plain,
                }
            )
    return rows


def photographs() -> list[Image.Image]:
    """Ten photographs in color: scikit-image's and scikit-learn's."""
    folder = Path(skimage.__file__).parent / "data"
    pictures = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    return [*pictures, *map(Image.fromarray, load_sample_images().images)]


def crops(count: int, seed: int, pictures: list[Image.Image]) -> Frames:
    """Random square crops, 40 to 100 % of a photograph's shorter side."""
    generator = np.random.default_rng(seed)
    frames = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index in range(count):
        picture = pictures[generator.integers(len(pictures))]
        side = int(min(picture.size) * generator.uniform(0.4, 1))
        left, top = (int(generator.integers(0, edge - side + 1)) for edge in picture.size)
        box = (left, top, left + side, top + side)
        frames[index] = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
    return frames


def count_alarms(
    rows: Floats, names: tuple[str, ...], reference: int, window: int, trials: int
) -> dict[str, Any]:
    """Draws reference and window from the same images and counts the windows called drift."""
    generator = np.random.default_rng(window)
    alarms = dict.fromkeys(RATES, 0)
    for _ in range(trials):
        chosen = rows[generator.permutation(len(rows))[: reference + window]]
        own = ReferenceStatistics(names, chosen[:reference], tuple(range(len(names))), "")
        least = min(report.probability for report in judge(own, chosen[reference:], 1.0))
        for rate in RATES:
            alarms[rate] += least < rate
    return {
        "images": len(rows),
        "reference": reference,
        "window": window,
        "windows": trials,
        "alarms": {str(rate): count for rate, count in alarms.items()},
    }


def detection(name: str, reference: ReferenceStatistics, rows: Floats, seed: int) -> dict[str, Any]:
    """The share of windows that are called drift, and the statistics that show it most often."""
    generator = np.random.default_rng(seed)
    row: dict[str, Any] = {"drift": name, "seen": {}}
    for window in WINDOWS:
        by = dict.fromkeys(reference.names, 0)
        seen = 0
        for _ in range(TRIALS):
            chosen = rows[generator.choice(len(rows), window, replace=len(rows) < window)]
            drifted = [r.name for r in judge(reference, chosen, ALARM_RATE) if r.drifted]
            seen += bool(drifted)
            for statistic in drifted:
                by[statistic] += 1
        row["seen"][str(window)] = seen / TRIALS
        ranked = sorted(by, key=lambda statistic: -by[statistic])
        row["by"] = [statistic for statistic in ranked[:3] if by[statistic] > TRIALS / 4]
    return row


def of_colors(trials: int) -> dict[str, Any]:
    """False alarms and detection on crops of photographs, by their pixels."""
    pictures, names = photographs(), input_names(3)
    reference = measure_frames(crops(REFERENCE, 1, pictures))
    stored = ReferenceStatistics(names, reference, tuple(range(len(names))), "")
    clean = measure_frames(crops(2000, 2, pictures))
    frames = crops(POOL, 3, pictures)
    return {
        "photographs": len(pictures),
        "statistics": names,
        "reference": REFERENCE,
        "alarms": [count_alarms(clean, names, REFERENCE, window, trials) for window in WINDOWS],
        "detection": [
            detection(name, stored, measure_frames(distort(frames)), index)
            for index, (name, distort) in enumerate(COLOR_DRIFTS.items())
        ],
    }


def of_digits(bundle: Path, trials: int) -> dict[str, Any]:
    """The same on digits that the model was not trained on, by its outputs too."""
    preprocess = find_variant("vit_digits").preprocess
    splits = [digits(split, preprocess) for split in ("evaluation", "calibration")]
    frames = np.concatenate([next(split.batches(len(split))) for split in splits])
    labels = np.concatenate([split.labels for split in splits if split.labels is not None])
    spec = EngineSpec("images", (OutputSpec("logits", "logits", (10,)),), (8, 8, 1), (1, 8, 32))
    names = statistic_names(spec)
    order = np.random.default_rng(0).permutation(len(frames))
    kept, others = order[:DIGIT_REFERENCE], order[DIGIT_REFERENCE:]
    with Engine.load(bundle, "fp32") as engine:

        def rows_of(images: Frames) -> Floats:
            return measure(images, {"logits": engine(images)}, spec)

        stored = ReferenceStatistics(names, rows_of(frames[kept]), tuple(range(len(names))), "")
        drifts = {name: rows_of(distort(frames[others])) for name, distort in DIGIT_DRIFTS.items()}
        drifts["one class only"] = rows_of(frames[labels == 3])
        halves = labels[others] < 5
        drifts["half of the classes"] = rows_of(frames[others][halves])
        clean = rows_of(frames)
    return {
        "statistics": names,
        "reference": DIGIT_REFERENCE,
        "alarms": [
            count_alarms(clean, names, DIGIT_REFERENCE, window, trials) for window in WINDOWS
        ],
        "detection": [
            detection(name, stored, rows, index)
            for index, (name, rows) in enumerate(drifts.items())
        ],
    }


def tables(result: dict[str, Any]) -> str:
    """The three parts in Markdown."""
    lines = [
        f"ViT-Ti/16, one image, 1 thread, {result['machine']}, {result['rounds']} rounds of "
        f"{EVERY} calls with each, CPU time (the machine's load was {result['load']:.1f}):",
        "",
        f"| backend | precision | a call | drift, 1 in {EVERY} | and metrics | drift, each image |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    cost = result["cost"]
    for rows in zip(cost[::3], cost[1::3], cost[2::3], strict=True):
        cells = [f"{row['added_us']:.0f} us, {100 * row['added_share']:.1f} %" for row in rows]
        lines.append(
            f"| {rows[0]['backend']} | {rows[0]['precision']} | {rows[0]['plain_us'] / 1e3:.2f} ms "
            f"| {' | '.join(cells)} |"
        )
    lines += [
        "",
        "| images | reference | window | windows | called drift at 1 in 100 | at 1 in 10,000 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("colors", "digits"):
        for row in result[name]["alarms"]:
            counts = [str(row["alarms"][str(rate)]) for rate in RATES]
            lines.append(
                f"| {name} | {row['reference']} | {row['window']} | {row['windows']} | "
                f"{' | '.join(counts)} |"
            )
    lines += [
        "",
        f"| images | drift | of {WINDOWS[0]} images | of {WINDOWS[1]} | by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("colors", "digits"):
        for row in result[name]["detection"]:
            seen = [f"{100 * row['seen'][str(window)]:.0f} %" for window in WINDOWS]
            lines.append(
                f"| {name} | {row['drift']} | {' | '.join(seen)} | {', '.join(row['by']) or '-'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they were"
    )
    parser.add_argument("--markdown", type=Path, help="put the tables into this document")
    arguments = parser.parse_args()
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    result |= {
        "machine": cpu_name(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("numpy", "opentelemetry-sdk", "scikit-image")},
        "alarm_rate": ALARM_RATE,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "cost" in arguments.parts:
            options = {"weights": "random", "precisions": PRECISIONS, "calibration_size": 16}
            tiny = export(folder, model=MODEL, **options)
            result["rounds"], result["load"] = arguments.rounds, os.getloadavg()[0]
            result["cost"] = [
                row
                for backend in BACKENDS
                for precision in PRECISIONS
                for row in measure_cost(tiny, backend, precision, arguments.rounds)
            ]
        if "colors" in arguments.parts:
            result["colors"] = of_colors(arguments.windows)
        if "digits" in arguments.parts:
            small = export(folder, model="vit_digits", precisions=("fp32",))
            result["digits"] = of_digits(small, arguments.windows)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    text = tables(result)
    print(text)
    if arguments.markdown is not None:
        put_into(arguments.markdown, "health", text)


if __name__ == "__main__":
    main()
