"""The types of `manifest.json`, a bundle's description of itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from .errors import BundleError
from .preprocess import Preprocess
from .schema import SchemaError, decode, parse_json

SCHEMA_VERSION = 4
OLDEST_SCHEMA = 3
"""Version 4 added what is known of an engine's plan."""
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
GOLDEN, CALIBRATION = "golden.npz", "calibration.json"
SIGNATURE = "model.sig"
RELEASE = "release.json"
"""Beside the manifest of a signed bundle, and signed with it."""
LOGITS, FEATURES = "logits", "features"
"""Names of the output: scores of classes, or an embedding."""

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_DIMENSION = 1 << 16
_MAX_BATCH_BYTES = 1 << 33
_MAX_FILES, _MAX_PATH = 4096, 200
_MAX_FILE_BYTES, _MAX_BUNDLE_BYTES = 1 << 38, 1 << 40
_MAX_COUNT = 1 << 40
_MAX_ERROR = 1e6
_ROUNDING = 1e-3
_MAX_TOLERANCE = 10.0
_MAX_RANK = 1000
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
    """Input and output of every engine of a bundle.

    The input is uint8 `[batch, height, width, channels]`, the output float32 `[batch, outputs]`.
    `batch` is the profile (min, opt, max).
    """

    input_name: str
    output_name: str
    image_shape: tuple[int, ...]
    outputs: int
    batch: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (*self.image_shape, self.outputs, *self.batch)
        if len(self.image_shape) != 3 or len(self.batch) != 3:
            raise ValueError("image_shape is [height, width, channels] and batch [min, opt, max]")
        if not all(0 < size <= _MAX_DIMENSION for size in sizes) or sorted(self.batch) != list(
            self.batch
        ):
            raise ValueError(
                f"sizes {sizes} are not between 1 and {_MAX_DIMENSION}, batch in rising order"
            )
        largest = self.batch[2] * max(math.prod(self.image_shape), 4 * self.outputs)
        if largest > _MAX_BATCH_BYTES:
            raise ValueError(f"a batch takes {largest} bytes, more than {_MAX_BATCH_BYTES}")

    @property
    def max_batch(self) -> int:
        return self.batch[2]


@dataclass(frozen=True)
class PlanSummary:
    """Summary of an engine's plan: what its builder compiled, by its own listing.

    Attributes:
        kernels: Kernels that one call launches.
        kernels_per_block: Median number from one attention to the next; None for fewer than two.
        linear_work: Share of the Linears' multiplications by the type that they run in.
        attentions, fused_attentions: How many there are, and how many run as one kernel.
        unmet: Layers that do not run in the type that the graph asks for, as
            "blocks.0.attn.qkv in fp16".
        dequantised: Layers whose weights are widened again at every call.
        copies: Kernels that only bring numbers to another place.
        waits: Signals and waits between CUDA streams.
        batch: The batch size that `bytes` is of.
        bytes: What the kernels of one call read and write; None if it is not known.
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
        backend, version: Which library built it.
        compute_capabilities: The GPUs that it was built for; empty for the library's own choice.
        form: Which of the equivalent forms of the graph it was built from.
        plan_file: The layers that the builder listed, in the bundle; "" where it listed none.
        plan: Their summary; None likewise.
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
    """A precision's logits against PyTorch's on evaluation images; rates are between 0 and 1.

    `drop` is `reference_top1 - top1` in percentage points with its paired 95 % interval, None
    without labels, like the two top-1 rates; `agreement` is None for features. `cosine` compares
    image-centred logits. `logit_error` is the worst absolute difference relative to the range of
    the reference logits. `rms_error` is the root mean square of the difference relative to that of
    the image-centred reference logits.
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


@dataclass(frozen=True)
class Graph:
    """An ONNX file of a precision and the accuracy that was measured with it.

    `rms_tolerance` bounds `Accuracy.rms_error` over the golden samples on any device that runs this
    graph. `external` are the files beside it that hold its weights, where it is above 2 GiB.
    `rank` is its place in the order in which a device tries precisions of which it has measured
    none, lowest first; None in bundles that do not say.
    """

    file: str
    external: tuple[str, ...]
    accuracy: Accuracy
    rms_tolerance: float
    rank: int | None = None

    def __post_init__(self) -> None:
        folder = self.file.rpartition("/")[0]
        if any(external.rpartition("/")[0] != folder for external in self.external):
            raise ValueError(f"weights {list(self.external)[:5]} do not lie beside {self.file}")
        if not 0 < self.rms_tolerance <= _MAX_TOLERANCE:
            raise ValueError(f"rms_tolerance {self.rms_tolerance} is not in (0, {_MAX_TOLERANCE}]")
        if self.rank is not None and not 0 <= self.rank <= _MAX_RANK:
            raise ValueError(f"rank {self.rank} is not between 0 and {_MAX_RANK}")
        _require_possible(self.accuracy)


def _require_possible(a: Accuracy) -> None:
    """Raises ValueError for numbers that nobody can have measured.

    Not in `Accuracy` itself: an export that fails measures what it likes.
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
    }
    for name, (value, low, high) in ranges.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"accuracy.{name} {value} is not between {low} and {high}")


@dataclass(frozen=True)
class PrecisionEntry:
    """`graphs` maps the kind of backend ("cpu", "gpu") to the graph that serves it.

    `raised` are the layers that a quantised precision leaves in 16 or 32 bits so that its budget
    holds, `reason` says why in words; empty where all are quantised.
    """

    graphs: dict[str, Graph]
    engines: tuple[EngineEntry, ...]
    raised: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A bundle's contents.

    `model`, `provenance` and `tools` are for people and `inspect`, as plain text.
    """

    schema_version: int
    name: str
    spec: EngineSpec
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    precisions: dict[str, PrecisionEntry]
    model: dict[str, str]
    provenance: dict[str, str]
    tools: dict[str, str]
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        _require_plain_files(self.files)
        graphs = [graph for p in self.precisions.values() for graph in p.graphs.values()]
        named = [file for graph in graphs for file in (graph.file, *graph.external)]
        engines = [engine for p in self.precisions.values() for engine in p.engines]
        named += [file for e in engines for file in (e.file, e.plan_file) if file]
        missing = sorted({GOLDEN, *named} - self.files.keys())
        if missing:
            raise ValueError(f"files are named but not listed with their hashes: {missing[:5]}")
        if not self.precisions or any(not p.graphs for p in self.precisions.values()):
            raise ValueError("no precision, or a precision without a graph")
        if self.labels is not None and len(self.labels) != self.spec.outputs:
            raise ValueError(f"{len(self.labels)} labels for {self.spec.outputs} outputs")
        shape = (self.preprocess.height, self.preprocess.width, self.preprocess.channels)
        if shape != self.spec.image_shape:
            raise ValueError(f"preprocess makes {shape}, the engines take {self.spec.image_shape}")


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
            _require_known_schema(value.get("schema_version"))
        return decode(Manifest, value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid: {str(error)[:300]}") from None


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
