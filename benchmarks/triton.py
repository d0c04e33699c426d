"""A bundle in a real Triton server (Python backend) beside the same engine in this process.

    python -m benchmarks.triton build/vit_digits [--precision fp32] [--seconds 5] [--rounds 3]

One image a request, 1, 8 and 64 clients, each of which sends the next request when the last one is
answered: threads that call the engine, coroutines that call the server. Engine, server by gRPC and
server by HTTP take turns, a round each; clients, server and engine share the same cores. Needs the
server that `make setup` installs. Expected: requests pay for two processes and their protocol,
which matters little where the model takes long. Writes `benchmarks/results/triton.json`: medians
over the rounds, and of the ratio to the engine in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.triton.server import HOME, Server, run_server
from vit_edge.runtime import Engine
from vit_edge.runtime.backends.cpu import cpu_name
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.tools.cli import main as vit_edge

OUT = Path(__file__).parent / "results" / "triton.json"
CLIENTS = (1, 8, 64)
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Round:
    """One round of one contender."""

    images_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; `of_engine` is the ratio of throughputs in the same round."""

    contender: str
    clients: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    of_engine: float


@dataclass(frozen=True)
class Window:
    """The time in which requests count, after a warm-up."""

    begin: float
    end: float

    @classmethod
    def of(cls, seconds: float) -> Window:
        begin = time.perf_counter() + WARM_UP_S
        return cls(begin, begin + seconds)

    def summarise(self, requests: list[tuple[float, float]]) -> Round:
        """Summarises requests (start, end): throughput is of those that ended in it, latencies are
        of all that were under way in it, for those that wait for its end count too.
        """
        answered = sum(self.begin <= end < self.end for _, end in requests)
        times = [end - start for start, end in requests if end >= self.begin]
        p50, p99 = np.percentile(times, [50, 99]) * 1e3
        return Round(answered / (self.end - self.begin), float(p50), float(p99))


def measure_engine(
    engine: Engine, frames: NDArray[np.uint8], clients: int, seconds: float
) -> Round:
    """Measures threads that call the engine in this process."""
    window = Window.of(seconds)

    def work(place: int) -> list[tuple[float, float]]:
        requests, turn = [], place
        while (start := time.perf_counter()) < window.end:
            engine(frames[turn % len(frames)][None])
            turn += 1
            requests.append((start, time.perf_counter()))
        return requests

    with ThreadPoolExecutor(clients) as pool:
        return window.summarise([one for own in pool.map(work, range(clients)) for one in own])


async def measure_server(
    server: Server, protocol: str, frames: NDArray[np.uint8], clients: int, seconds: float
) -> Round:
    """Measures coroutines that call the server, by Triton's own asynchronous client."""
    library: Any = importlib.import_module(f"tritonclient.{protocol}")
    aio: Any = importlib.import_module(f"tritonclient.{protocol}.aio")
    limits = {"conn_limit": clients} if protocol == "http" else {}
    address = f"localhost:{getattr(server, protocol)}"
    async with aio.InferenceServerClient(address, **limits) as client:
        window = Window.of(seconds)

        async def work(place: int) -> list[tuple[float, float]]:
            requests, turn = [], place
            while (start := time.perf_counter()) < window.end:
                frame = frames[turn % len(frames)][None]
                value = library.InferInput("images", list(frame.shape), "UINT8")
                value.set_data_from_numpy(frame)
                (await client.infer("model", [value])).as_numpy("logits")
                turn += 1
                requests.append((start, time.perf_counter()))
            return requests

        done = await asyncio.gather(*map(work, range(clients)))
    return window.summarise([one for own in done for one in own])


@contextmanager
def serve(bundle: Path, precision: str, folder: Path) -> Iterator[Server]:
    """Writes the model repository and starts a server of it."""
    options = ["--precision", precision, "--name", "model", "-q"]
    if vit_edge(["triton", str(bundle), str(folder / "models"), *options]):
        raise SystemExit("the model repository could not be written")
    (folder / "server").mkdir()
    with run_server([folder / "models"], folder / "server") as server:
        yield server


def compare(bundle: Path, precision: str, seconds: float, rounds: int) -> tuple[str, list[Row]]:
    """Returns the engine that ran, and a row for each contender and number of clients."""
    frames = Bundle.open(bundle).golden().images
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(Engine.load(bundle, precision))
        server = stack.enter_context(serve(bundle, precision, folder))
        contenders: dict[str, Callable[[int], Round]] = {
            "engine": lambda n: measure_engine(engine, frames, n, seconds),
            "triton, gRPC": lambda n: asyncio.run(
                measure_server(server, "grpc", frames, n, seconds)
            ),
            "triton, HTTP": lambda n: asyncio.run(
                measure_server(server, "http", frames, n, seconds)
            ),
        }
        for clients in CLIENTS:
            taken: dict[str, list[Round]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, run in contenders.items():
                    taken[name].append(run(clients))
            for name, own in taken.items():
                ratios = [
                    a.images_per_s / b.images_per_s
                    for a, b in zip(own, taken["engine"], strict=True)
                ]
                rows.append(_row(name, clients, own, ratios))
                print(rows[-1], flush=True)
        return str(engine.info), rows


def _row(name: str, clients: int, rounds: list[Round], ratios: list[float]) -> Row:
    return Row(
        name,
        clients,
        round(median(r.images_per_s for r in rounds), 1),
        round(median(r.p50_ms for r in rounds), 3),
        round(median(r.p99_ms for r in rounds), 3),
        round(median(ratios), 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    versions = list(HOME.glob("lib/*/site-packages/nvidia_pytriton-*.dist-info"))
    results = []
    for bundle in arguments.bundle:
        engine, rows = compare(bundle, arguments.precision, arguments.seconds, arguments.rounds)
        name = Bundle.open(bundle).manifest.name
        results.append({"model": name, "engine": engine, "rows": [asdict(row) for row in rows]})
    result = {
        "machine": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "server": [path.name.removesuffix(".dist-info") for path in versions],
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "load": round(os.getloadavg()[0], 1),
        "models": results,
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
