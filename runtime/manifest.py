"""The types of `manifest.json`, a bundle's description of itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .errors import BundleError
from .outputs import (
    EMBEDDING,
    LOGITS,
    MAP,
    OutputSpec,
)
from .preprocess import Preprocess
from .schema import SchemaError, decode, parse_json

SCHEMA_VERSION = 8
OLDEST_SCHEMA = 3
"""Version 4 added what is known about an engine's plan; version 5 named outputs of several kinds;
version 6 numbers in `model` and `provenance`, which were text before; version 7 the compute
capability that a graph's types need; version 8 the reference's statistics, if a bundle has them.
"""
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
GOLDEN, CALIBRATION = "golden.npz", "calibration.json"
STATISTICS = "statistics.npz"
SIGNATURE = "model.sig"
RELEASE = "release.json"
"""File beside the manifest of a signed bundle, signed with it."""
FEATURES = "features"
"""Name of the embedding that our own models without a head return."""

Fact = str | int | float | bool
"""Value that is recorded for people to read; numbers are below 2**63 in magnitude."""

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_DIMENSION = 1 << 16
_MAX_BATCH_BYTES = 1 << 33
_MAX_FILES, _MAX_PATH = 4096, 200
_MAX_FILE_BYTES, _MAX_BUNDLE_BYTES = 1 << 38, 1 << 40
_MAX_COUNT = 1 << 40
_MAX_ERROR = 1e6
_MAX_FACT = 1 << 63
_ROUNDING = 1e-3
_MAX_TOLERANCE = 10.0
_MAX_RANK = 1000
_MAX_REFERENCE, _MAX_STATISTICS = 1 << 16, 1 << 10
_NAMED_OUTPUTS = 5
"""First schema version whose manifests name their outputs."""
_OWN = {MANIFEST, MANIFEST_DIGEST, RELEASE, SIGNATURE}


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or not 0 <= self.size <= _MAX_FILE_BYTES:
            raise ValueError(f"bad sha256 or size {self.size}")


@dataclass(frozen=True)
class EngineSpec:
    """Input and outputs of every engine of a bundle.

    The input is uint8 `[batch, height, width, channels]`, the outputs float32 `[batch, *shape]`.
    `batch` is the profile (min, opt, max).
    """

    input_name: str
    outputs: tuple[OutputSpec, ...]
    image_shape: tuple[int, ...]
    batch: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (*self.image_shape, *self.batch)
        if len(self.image_shape) != 3 or len(self.batch) != 3:
            raise ValueError("image_shape is [height, width, channels] and batch [min, opt, max]")
        if not all(0 < size <= _MAX_DIMENSION for size in sizes) or sorted(self.batch) != list(
            self.batch
        ):
            raise ValueError(
                f"sizes {sizes} are not between 1 and {_MAX_DIMENSION}, batch in rising order"
            )
        if not self.outputs or len(set(self.output_names)) != len(self.outputs):
            raise ValueError(f"outputs {list(self.output_names)[:9]} are none, or two of one name")
        largest = self.batch[2] * max(math.prod(self.image_shape), 4 * self.width)
        if largest > _MAX_BATCH_BYTES:
            raise ValueError(f"a batch takes {largest} bytes, more than {_MAX_BATCH_BYTES}")

    @property
    def max_batch(self) -> int:
        return self.batch[2]

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.outputs)

    @cached_property
    def width(self) -> int:
        """Number of values for one image, over all outputs."""
        return sum(output.size for output in self.outputs)

    @property
    def classifier(self) -> OutputSpec | None:
        """The first output that gives each image a class; None if none does."""
        return next((output for output in self.outputs if output.classifies), None)

    @property
    def labelled(self) -> OutputSpec | None:
        """The output that the bundle's labels belong to: the first one of classes or labels, or
        else the first map of several channels; None if there is neither.
        """
        values = [o for o in self.outputs if o.classifies or o.is_of_labels]
        maps = [o for o in self.outputs if o.kind == MAP and len(o.shape) == 3 and o.shape[0] > 1]
        return next(iter([*values, *maps]), None)


@dataclass(frozen=True)
class PlanSummary:
    """Summary of an engine's plan: what its builder compiled, according to its own listing.

    Attributes:
        kernels: Kernels that one call launches.
        kernels_per_block: Median number of kernels from one attention to the next; None for fewer
            than two attentions.
        linear_work: Share of the Linears' multiplications by the type that they run in.
        attentions, fused_attentions: Number of attentions, and of those that run as one kernel.
        unmet: Layers that do not run in the type that the graph asks for, such as
            "blocks.0.attn.qkv in fp16".
        dequantised: Layers whose weights are dequantised at every call.
        copies: Kernels that only move data.
        waits: Signals and waits between CUDA streams.
        batch: The batch size for which `bytes` holds.
        bytes: Bytes that the kernels of one call read and write; None if it is not known.
    """

    kernels: int
    kernels_per_block: float | None
    linear_work: dict[str, float]
    attentions: int
    fused_attentions: int
    unmet: tuple[str, ...]
    dequantised: tuple[str, ...]
    copies: int
    waits: int
    batch: int
    bytes: float | None

    def __post_init__(self) -> None:
        counts = (
            self.kernels, self.attentions, self.fused_attentions, self.copies, self.waits,
            self.batch, self.bytes or 0, self.kernels_per_block or 0,
        )  # fmt: skip
        if not all(0 <= count <= _MAX_BUNDLE_BYTES for count in counts):
            raise ValueError(f"kernels, bytes and the like {counts} are not possible")
        if not all(0 <= share <= 1 + _ROUNDING for share in self.linear_work.values()):
            raise ValueError(f"linear_work {self.linear_work} is not made of shares")


@dataclass(frozen=True)
class EngineEntry:
    """A prebuilt engine.

    Attributes:
        file: Its path in the bundle.
        backend, version: Library that built it, and its version.
        compute_capabilities: The GPUs that it was built for; empty for the library's own choice.
        form: The one of several equivalent forms of the graph that it was built from.
        plan_file: File in the bundle with the builder's list of layers; "" if there is none.
        plan: Summary of that list; None if there is none.
    """

    file: str
    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    form: dict[str, str] = field(default_factory=dict)
    plan_file: str = ""
    plan: PlanSummary | None = None

    def __post_init__(self) -> None:
        wrong = [c for c in self.compute_capabilities if not _CAPABILITY.fullmatch(c)]
        if wrong:
            raise ValueError(f"compute capability {wrong[0][:20]!r} is no number such as 8.9")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a precision's output, compared with PyTorch's on evaluation images; rates are
    between 0 and 1.

    Attributes:
        images: Number of images.
        top1, reference_top1: Share of images whose class is right. It is that of the largest logit
            or probability; for an embedding the most frequent one of an image's five nearest
            neighbours. None without labels, and for other kinds.
        drop, drop_low, drop_high: `reference_top1 - top1` in percentage points, with its paired
            95 % interval; None likewise.
        agreement: Share of decisions that equal PyTorch's: the class of an image, or of a pixel in
            maps of several channels; each label of an image; the nearest neighbour of an embedding
            among the images. None for kinds without decisions.
        cosine: Mean over images of the cosine between values minus their mean over the images.
        logit_error: Worst absolute difference, relative to the range of the reference's values or
            the output's scale, whichever is larger; for tokens the largest root mean square of a
            token, for boxes the worst absolute difference, both relative to the output's scale.
        rms_error: Root mean square of the difference, relative to the output's scale.
        measured_on: Library and device.
        average_precision: Mean average precision of labels, with PyTorch's decisions as the truth;
            None for other kinds.
        metric, reference_metric: The user's own metric, and the reference's; None without one.
    """

    images: int
    top1: float | None
    reference_top1: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    agreement: float | None
    cosine: float
    logit_error: float
    rms_error: float
    measured_on: str
    average_precision: float | None = None
    metric: float | None = None
    reference_metric: float | None = None


@dataclass(frozen=True)
class Graph:
    """An ONNX file of a precision and the accuracy that was measured with it.

    Attributes:
        file: Its path in the bundle.
        external: The files beside it that hold its weights, if it is above 2 GiB.
        accuracy: Accuracy of each output, by name.
        rms_tolerance: Bound of each output's `Accuracy.rms_error` over the golden samples, on any
            device that runs this graph.
        rank: Its place in the order in which a device tries precisions before it has measured any,
            lowest first; None in bundles that do not state it.
        quantised: The share of the multiplications that it quantises, 0 to 1: of "all" of them, and
            of each kind that it has ("Linears", "attention", "convolutions"); empty in bundles that
            do not state it.
        least_capability: The lowest compute capability of GPUs that have its types, such as "8.9";
            "" for all GPUs, and in bundles that do not state it.
    """

    file: str
    external: tuple[str, ...]
    accuracy: dict[str, Accuracy]
    rms_tolerance: dict[str, float]
    rank: int | None = None
    quantised: dict[str, float] = field(default_factory=dict)
    least_capability: str = ""

    def __post_init__(self) -> None:
        folder = self.file.rpartition("/")[0]
        if any(external.rpartition("/")[0] != folder for external in self.external):
            raise ValueError(f"weights {list(self.external)[:5]} do not lie beside {self.file}")
        for tolerance in self.rms_tolerance.values():
            if not 0 < tolerance <= _MAX_TOLERANCE:
                raise ValueError(f"rms_tolerance {tolerance} is not in (0, {_MAX_TOLERANCE}]")
        if self.rank is not None and not 0 <= self.rank <= _MAX_RANK:
            raise ValueError(f"rank {self.rank} is not between 0 and {_MAX_RANK}")
        for accuracy in self.accuracy.values():
            _require_possible(accuracy)
        if self.least_capability and not _CAPABILITY.fullmatch(self.least_capability):
            shown = self.least_capability[:20]
            raise ValueError(f"compute capability {shown!r} is no number such as 8.9")
        if not all(0 <= share <= 1 for share in self.quantised.values()):
            raise ValueError(f"quantised {self.quantised} is not made of shares")


def _require_possible(a: Accuracy) -> None:
    """Raises ValueError for numbers that cannot have been measured.

    Not in `Accuracy` itself, because an export that fails may measure any number.
    """
    ranges = {
        "images": (a.images, 1, _MAX_COUNT),
        "top1": (a.top1, 0, 1),
        "reference_top1": (a.reference_top1, 0, 1),
        "drop": (a.drop, -100, 100),
        "drop_low": (a.drop_low, -100, 100),
        "drop_high": (a.drop_high, -100, 100),
        "agreement": (a.agreement, 0, 1),
        "cosine": (a.cosine, -1 - _ROUNDING, 1 + _ROUNDING),
        "logit_error": (a.logit_error, 0, _MAX_ERROR),
        "rms_error": (a.rms_error, 0, _MAX_ERROR),
        "average_precision": (a.average_precision, 0, 1),
    }
    for name, (value, low, high) in ranges.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"accuracy.{name} {value} is not between {low} and {high}")


@dataclass(frozen=True)
class PrecisionEntry:
    """`graphs` maps the kind of backend ("cpu", "gpu") to the graph that serves it.

    `raised` are the fallback layers, which a quantised precision leaves in 8, 16 or 32 bits so that
    its budget holds, and `reason` explains them; both are empty if all are quantised. `evidence`
    explains why the evaluation images cannot support the verdict; "" if they can.
    """

    graphs: dict[str, Graph]
    engines: tuple[EngineEntry, ...]
    raised: tuple[str, ...]
    reason: str
    evidence: str = ""


@dataclass(frozen=True)
class ReferenceStatistics:
    """Statistics of reference images and of the reference's outputs, each one number per image,
    from which `vit_edge.runtime.tools.health` detects drift.

    Attributes:
        file: Its path in the bundle: an `.npz` with `values` float32 `[images, len(names)]`.
        images: Number of images.
        source: Description of the images.
        names: The statistics, in the order of the columns.
    """

    file: str
    images: int
    source: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < self.images <= _MAX_REFERENCE:
            raise ValueError(f"images {self.images} is not between 1 and {_MAX_REFERENCE}")
        if not 0 < len(set(self.names)) == len(self.names) <= _MAX_STATISTICS:
            raise ValueError(f"names {list(self.names)[:5]} are none, too many, or twice the same")


@dataclass(frozen=True)
class Manifest:
    """A bundle's contents.

    `model`, `provenance` and `tools` hold text and numbers for people and `inspect`.
    `statistics` is None in bundles from before version 8.
    """

    schema_version: int
    name: str
    spec: EngineSpec
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    precisions: dict[str, PrecisionEntry]
    model: dict[str, Fact]
    provenance: dict[str, Fact]
    tools: dict[str, str]
    files: dict[str, FileEntry]
    statistics: ReferenceStatistics | None = None

    def __post_init__(self) -> None:
        _require_plain_files(self.files)
        _require_facts(self.model)
        _require_facts(self.provenance)
        graphs = [graph for p in self.precisions.values() for graph in p.graphs.values()]
        named = [file for graph in graphs for file in (graph.file, *graph.external)]
        engines = [engine for p in self.precisions.values() for engine in p.engines]
        named += [file for e in engines for file in (e.file, e.plan_file) if file]
        named += [] if self.statistics is None else [self.statistics.file]
        missing = sorted({GOLDEN, *named} - self.files.keys())
        if missing:
            raise ValueError(f"files are named but not listed with their hashes: {missing[:5]}")
        if not self.precisions or any(not p.graphs for p in self.precisions.values()):
            raise ValueError("no precision, or a precision without a graph")
        if self.labels is not None:
            labelled = self.spec.labelled
            classes = 0 if labelled is None else labelled.shape[0]
            if len(self.labels) != classes:
                raise ValueError(f"{len(self.labels)} labels for {classes} outputs")
        names = set(self.spec.output_names)
        for graph in graphs:
            if graph.accuracy.keys() != names or graph.rms_tolerance.keys() != names:
                raise ValueError(f"{graph.file} has not the accuracy of each output")
        shape = (self.preprocess.height, self.preprocess.width, self.preprocess.channels)
        if shape != self.spec.image_shape:
            raise ValueError(f"preprocess makes {shape}, the engines take {self.spec.image_shape}")


def _require_facts(facts: dict[str, Fact]) -> None:
    for name, value in facts.items():
        if not is_fact(value):
            raise ValueError(f"{name[:60]!r} is {str(value)[:40]}, a number out of its range")


def is_fact(value: object) -> bool:
    """Returns true if a manifest accepts the value, unchanged, among its facts."""
    if type(value) in (int, float):
        return abs(value) < _MAX_FACT  # type: ignore[arg-type]  # a number; false for NaN
    return type(value) in (str, bool)


def _require_plain_files(files: dict[str, FileEntry]) -> None:
    if len(files) > _MAX_FILES or sum(e.size for e in files.values()) > _MAX_BUNDLE_BYTES:
        raise ValueError(f"more than {_MAX_FILES} files or {_MAX_BUNDLE_BYTES} bytes")
    for path in files:
        if len(path) > _MAX_PATH or not _PATH.fullmatch(path) or path in _OWN:
            raise ValueError(f"file name {path[:60]!r} is not a plain relative path of a file")
    if len({path.lower() for path in files}) != len(files):  # an SD card would mix them up
        raise ValueError("two file names differ in upper and lower case only")


def digest_line(digest: str) -> bytes:
    """Returns the contents of `manifest.sha256`, in `sha256sum`'s form, for a SHA-256 in hex."""
    return f"{digest}  {MANIFEST}\n".encode()


def parse_manifest(raw: bytes) -> Manifest:
    """Parses the bytes of `manifest.json`.

    Raises:
        BundleError: if they are not a manifest that this version reads.
    """
    try:
        value = parse_json(raw)
        if isinstance(value, dict):
            version = value.get("schema_version")
            _require_known_schema(version)
            if version < _NAMED_OUTPUTS:  # type: ignore[operator]  # a number, as was checked
                _name_outputs(value)
        return decode(Manifest, value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid: {str(error)[:300]}") from None


def _name_outputs(manifest: dict[str, Any]) -> None:
    """Rewrites a parsed older manifest, which described its one output by name and width, in the
    form of version 5. Raises SchemaError if it does not have the older form.
    """
    try:
        spec = manifest["spec"]
        name, width = spec.pop("output_name"), spec["outputs"]
        if type(width) is not int:
            raise TypeError
        kind = EMBEDDING if name == FEATURES else LOGITS
        spec["outputs"] = [{"name": name, "kind": kind, "shape": [width]}]
        for precision in manifest["precisions"].values():
            for graph in precision["graphs"].values():
                for measure in ("accuracy", "rms_tolerance"):
                    graph[measure] = {name: graph[measure]}
    except (KeyError, TypeError, AttributeError):
        raise SchemaError("its spec or precisions are not as in its schema_version") from None


def _require_known_schema(version: object) -> None:
    if type(version) is int and OLDEST_SCHEMA <= version <= SCHEMA_VERSION:
        return
    newer = type(version) is int and version > SCHEMA_VERSION
    remedy = (
        "it was made by a newer vit-edge: update this one"
        if newer
        else "export the bundle again or install the matching vit-edge"
    )
    raise SchemaError(
        f"schema_version is {str(version)[:20]}, this vit-edge reads {OLDEST_SCHEMA} to "
        f"{SCHEMA_VERSION}: {remedy}"
    )
