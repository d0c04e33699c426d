"""One process of `benchmarks.scaling`: runs an engine on the cores that it was given.

    python -m benchmarks.scaling_worker BUNDLE PRECISION BACKEND BATCH SECONDS CORE[,CORE...]

Takes its cores before any library is loaded: the libraries then start as many threads. Says "ready"
when it is warm, starts at the next line of its input, and prints milliseconds and images per second
as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np


def main() -> None:
    bundle, precision, backend, batch, seconds, cores = sys.argv[1:]
    os.sched_setaffinity(0, set(map(int, cores.split(","))))
    from vit_edge.runtime import Engine
    from vit_edge.runtime.bundle import Bundle

    images = Bundle.open(bundle).golden().images
    frames = np.resize(images, (int(batch), *images.shape[1:]))
    with Engine.load(bundle, precision, backend) as engine:
        for _ in range(3):
            engine(frames)
        print("ready", flush=True)
        sys.stdin.readline()
        times = []
        start = now = time.perf_counter()
        while now - start < float(seconds):
            engine(frames)
            times.append(time.perf_counter() - now)
            now += times[-1]
    answer = {
        "p50_ms": 1e3 * float(np.median(times)),
        "p90_ms": 1e3 * float(np.quantile(times, 0.9)),
        "images_per_s": len(times) * int(batch) / (now - start),
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
