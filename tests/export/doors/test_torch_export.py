"""Each module goes through the first of torch's exporters whose graph gives what the module
gives.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vit_edge.export.doors.calling import ImageCall, copy_module, try_module
from vit_edge.export.doors.torch_export import Exported, export_module
from vit_edge.export.passes import SCOPES
from vit_edge.runtime.errors import InputError

from .models import SIDE, Tiny

SHAPE = (3, SIDE, SIDE)


def _export(module: Tiny) -> Exported:
    return export_module(try_module(copy_module(module), SHAPE).call, SHAPE)


def test_the_dynamo_exporter_comes_first() -> None:
    exported = _export(Tiny(lambda tokens, logits: {"logits": logits, "tokens": tokens}))
    assert (exported.exporter, exported.notes) == ("torch's dynamo exporter", ())
    graph = exported.model.graph
    assert [value.name for value in graph.outputs] == ["logits", "tokens"]
    assert not graph.inputs[0].shape.is_static(0)  # type: ignore[union-attr]
    kept = {key for node in graph for key in node.metadata_props}
    assert kept == {SCOPES}  # and no line of a file of this machine


def test_the_older_exporter_takes_what_dynamo_does_not() -> None:
    exported = _export(Tiny(rank=3))
    assert exported.exporter == "torch's older exporter"
    (note,) = exported.notes
    assert note.startswith("torch's dynamo exporter failed: ")
    assert "only 4D query" in note


def test_a_graph_that_gives_something_else_is_not_taken() -> None:
    """Both exporters follow one branch; the example's is the wrong one."""

    class Branches(Tiny):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return logits if bool(images.abs().sum() > 0) else -logits

    with pytest.raises(InputError) as caught:
        export_module(ImageCall(Branches(), ("output",)), SHAPE)
    assert "torch cannot export the model to ONNX (torch's dynamo exporter: " in str(caught.value)
    assert "torch's older exporter: InputError: its graph gives another output" in str(caught.value)
    assert "--onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_batch_that_is_built_in_is_exported_as_one() -> None:
    class Fixed(Tiny):
        def forward(self, images: Tensor) -> Tensor:
            rows = [super(Fixed, self).forward(image[None]) for image in images]
            return torch.cat(rows)

    exported = _export(Fixed())
    assert exported.exporter.endswith(", batch 1")
