"""Images per second of `vit-edge score`, in one process and on Ray, and what Ray costs.

    python -m benchmarks.score [--rounds 5] [--work build/score]

Exports vit_digits and a ViT-Ti/16 with random weights (fp32) where they are not in the work folder
yet, draws JPEGs of 500x375, and times in turn, round by round, so that noise hits all alike:

- one by one: `engine(preprocess.read(file))`, image after image, in one thread of Python;
- score: `vit-edge score` in one process;
- processes: one `vit-edge score --threads 1 --workers 1` for each core, each with its share of the
  images, at the same time: what `--ray` does, without Ray;
- ray: `vit-edge score --ray`, a process with one thread for each core.

Before each the script waits, some seconds at most, until the machine is idle, and notes how idle it
was. Loading an engine is left out of all, and the first file of each process, whose calls are slow.
Of Ray the start (of the cluster, then until as many files are there as processes) is told apart.
CPU time per image is counted beside, which other work on the machine disturbs less. Decoding is
timed by itself too, in threads and in processes. Writes `benchmarks/results/score.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow
import ray
from PIL import Image, __version__
from pyarrow import parquet

from vit_edge.runtime import Bundle, Engine
from vit_edge.runtime.backends.cpu import choose_threads, cpu_name
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.score import ray_data
from vit_edge.runtime.tools.score.folder import ScoreFolder
from vit_edge.runtime.tools.score.run import Request, make_record, prepare, score

OUT = Path(__file__).parent / "results" / "score.json"
MODELS = {"vit_digits": 1600, "vit_tiny_patch16_224": 160}
"""Images that are scored in a round: enough for some seconds."""
FILES, SHARDS = 400, 16
IDLE, WAIT_S = 0.8, 3.0
"""Share of the machine that has to be idle before a way is timed, and seconds to wait for it."""
SIZE, QUALITY = (500, 375), 88


def draw_images(folder: Path) -> list[Path]:
    """Parts of scikit-learn's two photographs, turned and cut at random, as JPEGs."""
    files = [folder / f"{index:04}.jpg" for index in range(FILES)]
    if all(file.exists() for file in files):
        return files
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    sources = [Image.fromarray(array) for array in load_sample_images().images]
    generator = np.random.default_rng(0)
    for index, file in enumerate(files):
        source = sources[index % 2].rotate(float(generator.uniform(-5, 5)))
        left = int(generator.integers(source.width - SIZE[0]))
        top = int(generator.integers(source.height - SIZE[1]))
        part = source.crop((left, top, left + SIZE[0], top + SIZE[1]))
        part.save(file, quality=QUALITY)
    return files


def export(model: str, out: Path) -> Path:
    if not out.exists():
        command = [sys.executable, "-m", "vit_edge", "export", model, "--precision", "fp32", "-q"]
        options = ["--target", "onnxruntime", "--effort", "fast", "--out", str(out)]
        calibration = ["--calib", "samples"] if model != "vit_digits" else []
        subprocess.run([*command, *options, *calibration], check=True)
    return out


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    return out


def wait_until_idle() -> float:
    """Returns the share of the machine that was idle in the last second."""
    end = time.monotonic() + WAIT_S
    while True:
        before = _ticks()
        time.sleep(1)
        idle, total = (b - a for a, b in zip(before, _ticks(), strict=True))
        if idle / total >= IDLE or time.monotonic() > end:
            return round(idle / total, 2)


def _ticks() -> tuple[int, int]:
    """Idle and all ticks of the CPUs. Source: proc(5), /proc/stat."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes so far. Source: proc(5), utime and stime of /proc/PID/stat."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started, and theirs. Source: proc(5), children."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def one_by_one(engine: Engine, files: Sequence[Path], cpu: list[float]) -> float:
    start, used = time.perf_counter(), time.process_time()
    for file in files:
        engine(engine.preprocess.read(file)[None])
    cpu.append((time.process_time() - used) / len(files))
    return len(files) / (time.perf_counter() - start)


def in_one_process(request: Request, cpu: list[float]) -> float:
    """Its CPU time is of a second run, with one thread to compute and one to decode, as each
    process on Ray has.
    """
    fresh(request.out)
    score(request)
    rate = steady_rate([request.out], 1)
    single = replace(request, out=fresh(request.out), threads=1, workers=1)
    used = time.process_time()
    summary = score(single)
    cpu.append((time.process_time() - used) / summary.rows)
    return rate


def steady_rate(folders: Sequence[Path], skip: int) -> float:
    """Images per second from the end of the first `skip` files on, by the times of the files: the
    first calls of an engine are slow, and runs in earnest are long.
    """
    parts = [part for folder in folders for part in folder.glob("part-*")]
    ends = sorted((part.stat().st_mtime, parquet.read_metadata(part).num_rows) for part in parts)
    return sum(rows for _, rows in ends[skip:]) / (ends[-1][0] - ends[skip - 1][0])


def in_processes(request: Request, files: Sequence[Path], count: int) -> float:
    running, outs = [], list[Path]()
    for number in range(count):
        part = request.out.with_name(f"list-{number}.txt")
        part.write_text("\n".join(str(file.absolute()) for file in files[number::count]))
        outs.append(fresh(request.out.with_name(f"out-{number}")))
        command = [
            sys.executable, "-m", "vit_edge", "score", request.bundle, part,
            "--out", outs[-1], "--json", "-q",
            "--precision", request.precision, "--backend", request.backend,
            "--threads", 1, "--workers", 1, "--rows", request.rows,
        ]  # fmt: skip
        running.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in running]
    assert not any(codes)
    return steady_rate(outs, count)


def on_ray(request: Request, count: int) -> dict[str, float]:
    """Seconds of the start, and images per second behind it."""
    request = replace(request, out=fresh(request.out), threads=1, workers=count)
    bundle, listing = prepare(request)
    assert request.precision
    assert request.backend
    record = make_record(request, bundle, listing, request.precision, request.backend)
    with ScoreFolder.open(request.out, record) as folder:
        begin = time.perf_counter()
        with ray_data._cluster(ray, "local", request):
            ready = time.perf_counter()
            steps, used = [], list[dict[str, float]]()
            for step in ray_data._steps(ray, request, record, folder, listing):
                steps.append((time.perf_counter(), step.rows))
                if len(steps) in (count, SHARDS):
                    used.append(_ray_cpu())
        end = time.perf_counter()
    behind = sum(rows for _, rows in steps[count:])
    return {
        "cluster_s": ready - begin,
        "first_files_s": steps[count - 1][0] - ready,
        "stop_s": end - steps[-1][0],
        "images_per_second": steady_rate([request.out], count),
        **{name: (used[1][name] - used[0][name]) / behind for name in used[0]},
    }


def _ray_cpu() -> dict[str, float]:
    """CPU seconds of the pool, and of this process, Ray's daemons and idle workers."""
    pool, others = list[int](), [os.getpid()]
    for pid in descendants(os.getpid()):
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        (pool if name.startswith(b"ray::MapWorker") else others).append(pid)
    return {"pool_cpu_s": cpu_seconds(pool), "others_cpu_s": cpu_seconds(others)}


def _read(preprocess: Preprocess, file: Path) -> None:
    preprocess.read(file)


def decoding(preprocess: Preprocess, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Images per second of decoding alone, in turn."""
    cores = choose_threads(None)
    read = partial(_read, preprocess)
    with ThreadPoolExecutor(cores) as threads, ProcessPoolExecutor(cores) as processes:
        list(processes.map(read, files[:cores]))  # starts them

        def spread(pool: Executor, chunk: int) -> float:
            start = time.perf_counter()
            list(pool.map(read, files, chunksize=chunk))
            return len(files) / (time.perf_counter() - start)

        def serial() -> float:
            start = time.perf_counter()
            list(map(read, files))
            return len(files) / (time.perf_counter() - start)

        ways = {
            "one thread": serial,
            f"{cores} threads": partial(spread, threads, 1),
            f"{cores} processes": partial(spread, processes, 8),
        }
        return in_turn(ways, rounds)


def in_turn(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Rates of each way round by round, their medians, and the medians of the ratios to the first
    way of the same round.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    idle: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            idle[name].append(wait_until_idle())
            rates[name].append(ways[name]())
    first = next(iter(rates.values()))
    return {
        name: {
            "images_per_second": round(median(values), 2),
            "times_the_first": round(
                median(a / b for a, b in zip(values, first, strict=True)), 3
            ),
            "rounds": [round(value, 2) for value in values],
            "idle_before": idle[name],
        }
        for name, values in rates.items()
    }  # fmt: skip


def measure(model: str, bundle: Path, files: Sequence[Path], work: Path, rounds: int) -> Any:
    cores = choose_threads(None)
    data = work / f"{model}.txt"
    data.write_text("\n".join(str(file.absolute()) for file in files))
    starts: list[dict[str, float]] = []
    plain, scored = list[float](), list[float]()
    with Engine.load(bundle) as engine:
        info = engine.info
        request = Request(
            bundle, data, work / "out", info.precision, info.backend,
            rows=-(-len(files) // SHARDS),
        )  # fmt: skip

        def with_ray() -> float:
            starts.append(on_ray(request, cores))
            return starts[-1]["images_per_second"]

        rates = in_turn(
            {
                "one by one": partial(one_by_one, engine, files, plain),
                "score": partial(in_one_process, request, scored),
                "processes": partial(in_processes, request, files, cores),
                "ray": with_ray,
            },
            rounds,
        )
    pairs = zip(rates["ray"]["rounds"], rates["processes"]["rounds"], strict=True)
    return {
        "engine": str(info),
        "images": len(files),
        "files": SHARDS,
        "rates": rates,
        "cpu_ms_an_image": {
            "one by one": round(1e3 * median(plain), 3),
            "score, one thread": round(1e3 * median(scored), 3),
            "ray, pool": round(1e3 * median(start["pool_cpu_s"] for start in starts), 3),
            "ray, all else": round(1e3 * median(start["others_cpu_s"] for start in starts), 3),
        },
        "ray": {
            "processes": cores,
            **{
                name: round(median(start[name] for start in starts), 2)
                for name in ("cluster_s", "first_files_s", "stop_s")
            },
            "ms_an_image_more_than_processes": round(
                median(1e3 * (1 / mine - 1 / theirs) for mine, theirs in pairs), 3
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/score"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    files = draw_images(work / "images")
    bundles = {model: export(model, work / model) for model in MODELS}
    results: dict[str, Any] = {
        "machine": cpu_name(),
        "python": platform.python_version(),
        "versions": {
            "pillow": __version__, "pyarrow": pyarrow.__version__, "ray": ray.__version__
        },
        "load_average_at_the_start": round(os.getloadavg()[0], 2),
        "rounds": arguments.rounds,
        "jpeg": {
            "size": list(SIZE), "quality": QUALITY,
            "mean_bytes": round(float(np.mean([file.stat().st_size for file in files]))),
        },
    }  # fmt: skip
    preprocess = Bundle.open(bundles["vit_tiny_patch16_224"]).manifest.preprocess
    results["decoding"] = decoding(preprocess, files, arguments.rounds)
    results["models"] = {}
    for model, count in MODELS.items():
        several = (files * -(-count // len(files)))[:count]
        results["models"][model] = measure(model, bundles[model], several, work, arguments.rounds)
        print(json.dumps(results["models"][model], indent=2), flush=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
