"""Our own quantiser, in a process of its own as the peers are."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.collect import collect
from vit_edge.calibration.observers import SEARCH, Origin
from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.precision import PRECISIONS
from vit_edge.runtime.tools.images import from_array

from .job import Job, main


def int8(job: Job) -> None:
    graph, precision = ir.load(job.model), PRECISIONS["int8"]
    images = from_array("calibration images", job.calibration(), None)
    tensors, origin = precision.observes(graph.graph), Origin("-", "-")
    calibration = collect(graph, tensors, images, SEARCH, origin, lambda done, total: None)
    save_onnx(precision.lower(graph, calibration)["cpu"], Path(job.out))


if __name__ == "__main__":
    main({"int8": int8})
