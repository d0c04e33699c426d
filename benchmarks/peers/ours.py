"""Our own quantiser, in a process of its own as the peers are."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from calibration.collect import collect
from calibration.observers import SEARCH
from calibration.onnx_file import save_onnx
from export.precision import PRECISIONS
from export.quantise.sites import find_sites
from runtime.images import from_array

from .job import Job, main


def int8(job: Job) -> None:
    graph = ir.load(job.model)
    images = from_array("calibration images", job.calibration(), None)
    sites = [site.name for site in find_sites(graph.graph)]
    found = collect(graph, sites, images, SEARCH, lambda done, total: None)
    save_onnx(PRECISIONS["int8"].lower(graph, found)["cpu"], Path(job.out))


if __name__ == "__main__":
    main({"int8": int8})
