"""Any `torch.nn.Module` as a source: exported to ONNX, measured against itself in PyTorch.

It is also the door of modules in memory; other doors load theirs and come here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.foreign.rebuild import CopyOnnxFile
from vit_edge.export.foreign.source import SAID, USUAL, ForeignSource, find_foreign_source
from vit_edge.export.reference import Oracle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import OutputSpec, pack
from vit_edge.runtime.preprocess import MODES, Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.labels import overruled_labels
from vit_edge.vit.preprocessing import normalise

from . import RANDOM
from .calling import ImageCall, copy_module, try_module, weights_digest
from .libraries import describe_module
from .source import Images, MakeReference, Source, refuse_options
from .torch_export import export_module

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest


@dataclass(frozen=True)
class LoadedModule:
    """Module, with the facts that its door knows.

    Attributes:
        name: The bundle's name, unless the user gives one.
        module: Left as it is.
        weights: The origin of its weights, in words; `RANDOM` for random ones.
        hints: Facts that its library knows; those of the user come first.
        hints_from: Where they are from, in words.
        facts: For the manifest.
        notes: For the user to read before the work starts.
    """

    name: str
    module: nn.Module
    weights: str
    hints: ModelHints = ModelHints()
    hints_from: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopyExport(CopyOnnxFile):
    """Reads the ONNX file that the module was exported to."""

    title_of = "ONNX export"


@dataclass(frozen=True)
class ModuleReference(MakeReference):
    """Runs the module in PyTorch: fp32, on the CPU, on normalised images as its users give it."""

    call: Hashed[ImageCall]
    title_of = "PyTorch reference"

    def oracle(self) -> Oracle:
        call = self.call.value
        places = [call.names.index(output.name) for output in self.outputs]

        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                values = call(normalise(images, self.preprocess))
            return pack([values[place].numpy() for place in places])

        return run


@dataclass(frozen=True)
class ModuleSource(ForeignSource):
    """A module: the ONNX file that it was exported to, and the call that is its oracle.

    Attributes:
        call: A copy of the module.
        call_key: SHA-256 of its weights.
        folder: Folder of the file, which goes with the source.
    """

    copy_stage: ClassVar[type[CopyOnnxFile]] = CopyExport
    call: ImageCall | None = None
    call_key: str = ""
    folder: tempfile.TemporaryDirectory[str] | None = None
    oracle: str = "PyTorch"

    def reference_stage(self, original: Path, images: Images, seed: int) -> Stage[Path]:
        assert self.call is not None
        call = Hashed(self.call, (self.weights_key, self.call_key))
        return ModuleReference(original, self.preprocess, self.outputs, images, seed, call)


def find_module_source(loaded: LoadedModule, request: ExportRequest) -> ModuleSource:
    """Exports a copy of the module to ONNX and reads that as the graph.

    Raises:
        InputError: if the module cannot be used, saying why and what to do.
    """
    _require_no_architecture(request)
    module = copy_module(loaded.module)
    size = _find_size(loaded, request)
    shape = (_find_channels(loaded, request), *size)
    hints = request.facts.or_else(loaded.hints)
    _require_possible(hints, shape)
    called = try_module(module, shape, request.outputs)
    exported = export_module(called.call, shape)
    folder = tempfile.TemporaryDirectory(prefix="vit-edge-")
    path = Path(folder.name) / "model.onnx"
    save_onnx(exported.model, path)
    inside = replace(hints, img_size=None, labels=request.facts.labels)
    try:
        foreign = find_foreign_source(path, inside, request.outputs)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "the model")) from None
    labels, label_notes, overruled = foreign.labels, tuple[str, ...](), ""
    if labels is None:
        labels, label_notes = _fit_labels(loaded, foreign.outputs)
    elif loaded.hints.labels is not None:
        overruled = overruled_labels(labels, loaded.hints.labels, loaded.hints_from or loaded.name)
    of_file = ("source", "producer", "sha256")
    of_graph = {name: fact for name, fact in foreign.facts.items() if name not in of_file}
    facts = {**loaded.facts, "exporter": exported.exporter, **of_graph}
    said = (
        (f"read from {loaded.hints_from}: {_describe(loaded.hints)}",) if loaded.hints_from else ()
    )
    of_file_source = {f.name: getattr(foreign, f.name) for f in fields(ForeignSource)}
    return ModuleSource(
        **{
            **of_file_source,
            "name": request.name or slug(loaded.name),
            "weights": loaded.weights,
            "labels": labels,
            "inferred": overruled,
            "facts": facts,
            "random": loaded.weights == RANDOM,
            "notes": (
                f"exported by {exported.exporter}",
                *exported.notes,
                *loaded.notes,
                *said,
                *called.notes,
                *label_notes,
                *foreign.notes,
            ),
            "oracle": "PyTorch",
        },
        call=called.call,
        call_key=weights_digest(module),
        folder=folder,
    )


def slug(name: str) -> str:
    """A plain file name of the last part of a model's name."""
    last = re.split(r"[/:]", name.rstrip("/:"))[-1]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", last).strip("_-") or "model"


def _require_no_architecture(request: ExportRequest) -> None:
    """Refuses options that are for our own ViT."""
    facts = request.facts
    inside = {
        "--config": request.config,
        "--heads": facts.n_heads,
        "--norm-eps": facts.norm_eps,
        "--activation": facts.mlp,
        "--pool": facts.pool,
    }
    refuse_options(inside, "fixed in the model, leave it out")


def _require_possible(hints: ModelHints, shape: tuple[int, int, int]) -> None:
    """Finds impossible preprocessing before the export, which takes long."""
    channels, height, width = shape
    known = hints.or_else(ModelHints(mean=(0.0,) * channels, std=(1.0,) * channels)).or_else(USUAL)
    known_fields = {name: getattr(known, name) for name in SAID}
    try:
        Preprocess(height, width, channels, **known_fields)
    except ValueError as error:
        raise InputError(f"--mean and --std, --crop or --interpolation: {error}") from None


def _arrays(request: ExportRequest) -> list[ImageSet]:
    return [d for d in (request.calibration, request.evaluation) if isinstance(d, ImageSet)]


def _frame_shape(request: ExportRequest) -> tuple[int, int, int] | None:
    """Height, width and channels of images that are in memory."""
    for images in _arrays(request):
        height, width, channels = images.read(images.indices[0]).shape
        return height, width, channels
    return None


def _find_size(loaded: LoadedModule, request: ExportRequest) -> tuple[int, int]:
    """Height and width: asked for, those of the images in memory, or the module's own."""
    frame = _frame_shape(request)
    size = request.facts.img_size or (frame and frame[:2]) or loaded.hints.img_size
    if size is None:
        raise InputError(
            "nothing says which size of images the model takes: give --image-size, or "
            'preprocess={"size": ...} in Python'
        )
    return size


def _find_channels(loaded: LoadedModule, request: ExportRequest) -> int:
    """As many as there are means, channels of the images in memory, or inputs of the first
    convolution.
    """
    mean, frame = request.facts.mean or loaded.hints.mean, _frame_shape(request)
    if mean is not None:
        return len(mean)
    if frame is not None:
        return frame[2]
    convolutions = [m for m in loaded.module.modules() if isinstance(m, nn.Conv2d)]
    first = convolutions[0].in_channels if convolutions else 3
    return first if first in MODES else 3


def _fit_labels(
    loaded: LoadedModule, outputs: Sequence[OutputSpec]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The library's names of the classes, if an output has as many."""
    labels = loaded.hints.labels
    if labels is None or len(labels) in [output.shape[0] for output in outputs if output.shape]:
        return labels, ()
    note = f"left out: {len(labels)} class names of {loaded.hints_from}, as many as no output has"
    return None, (note,)


def _describe(hints: ModelHints) -> str:
    said = {
        "size": hints.img_size and "x".join(map(str, hints.img_size)),
        "mean": hints.mean and ",".join(f"{v:.4g}" for v in hints.mean),
        "std": hints.std and ",".join(f"{v:.4g}" for v in hints.std),
        "interpolation": hints.interpolation,
        "crop": hints.crop,
        "crop mode": hints.crop_mode,
        "class names": hints.labels and len(hints.labels),
    }
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Describes the request's module. Raises InputError if it is none."""
    module = request.model
    if not isinstance(module, nn.Module):
        raise InputError(f"the model is a {type(module).__name__}: give a torch.nn.Module")
    hints, origin = describe_module(module)
    name = type(module).__name__
    facts = {"source": "module in memory", "class": f"{type(module).__module__}.{name}"}
    return LoadedModule(name, module, "of the module in memory", hints, origin, facts)
