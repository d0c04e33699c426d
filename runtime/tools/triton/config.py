"""Triton's configuration of a model, made from a bundle by Triton's own protobuf messages.

Source: `model_config.proto` of triton-inference-server/common, in the package `tritonclient`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...bundle import Bundle
from ...errors import BackendError, InputError, install_command
from ...manifest import EngineSpec
from ...outputs import OutputSpec
from .target import BundlePart

LABELS = "labels.txt"
"""Names of classes, one a line, beside the configuration."""
BUNDLE_FOLDER = "bundle"
_MOST = 1024
"""Instances on a device, and threads of one."""
ENCODED = "encoded"
"""Input of the models that take image files: their bytes."""
DECODE, IMAGES = "_decode", "_images"
"""Endings of the names of the models for image files: the step, and the ensemble."""

PREFIX = "vit_edge."
"""Of the parameters by which a model says what it is."""
BUNDLE_SHA256, FILE_SHA256 = f"{PREFIX}bundle_sha256", f"{PREFIX}file_sha256"
PRECISION, GRAPH, THREADS = f"{PREFIX}precision", f"{PREFIX}graph", f"{PREFIX}threads"
OUTPUTS, PREPROCESS, GOLDEN_FILE = f"{PREFIX}outputs", f"{PREFIX}preprocess", f"{PREFIX}golden"


@dataclass(frozen=True)
class Serving:
    """Choices of the user about a bundle that is to be served.

    Attributes:
        name: The model's name.
        bundle: The bundle, verified.
        part: What of it runs, and in which way.
        batches: Sizes that the dynamic batcher prefers, and that are warmed up.
        instances: Number of instances on each device.
        threads: CPU threads of each instance of the Python backend; None is what suits the machine.
    """

    name: str
    bundle: Bundle
    part: BundlePart
    batches: tuple[int, ...]
    instances: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        smallest, _, largest = self.spec.batch
        if not self.batches or not all(1 <= size <= largest for size in self.batches):
            raise InputError(
                f"--batch {' '.join(map(str, self.batches))}: the engines take 1 to {largest}"
            )
        if smallest > 1 and self.part.target.like:
            raise InputError(
                f"the bundle's engines take at least {smallest} images, and Triton's dynamic "
                "batching sends fewer: choose --backend python, which fills up"
            )
        for option, number in (("instances", self.instances), ("threads", self.threads or 1)):
            if not 1 <= number <= _MOST:
                raise InputError(f"--{option} {number}: give 1 to {_MOST}")

    @property
    def spec(self) -> EngineSpec:
        return self.bundle.manifest.spec

    @property
    def version_folder(self) -> str:
        return f"{self.name}/1"

    @property
    def golden_file(self) -> str:
        """Path of the golden samples, relative to the model's folder."""
        return "golden.npz" if self.part.target.like else f"1/{BUNDLE_FOLDER}/golden.npz"


def import_messages() -> Any:
    """Returns `tritonclient.grpc.model_config_pb2`. Raises BackendError if it is not installed."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise BackendError(
            f"Triton's configuration needs tritonclient ({error}): {install_command('triton')}"
        ) from None
    return model_config_pb2


def to_text(config: Any) -> bytes:
    """Returns the text of a `ModelConfig`, as `config.pbtxt` has it."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text.encode()


def frames_config(serving: Serving, file_sha256: str) -> Any:
    """Makes the configuration of the model that takes frames.

    Args:
        serving: How the bundle is served.
        file_sha256: SHA-256 in hex of the file that Triton opens.

    Returns:
        A `ModelConfig`.
    """
    pb = import_messages()
    target, spec = serving.part.target, serving.spec
    config = pb.ModelConfig(
        name=serving.name,
        backend=target.backend,
        default_model_filename=target.file,
        max_batch_size=spec.max_batch,
        input=[_frames(pb.ModelInput, pb, spec)],
        output=[_output(pb, output, serving) for output in spec.outputs],
        dynamic_batching=pb.ModelDynamicBatching(preferred_batch_size=sorted(serving.batches)),
        instance_group=[_instances(pb, serving.instances, target.on_gpu)],
        model_warmup=[_warmup(pb, spec, size) for size in warmup_sizes(serving)],
    )
    if target.modes is not None and serving.part.precision is not None:
        accelerators = config.optimization.execution_accelerators
        tensorrt = accelerators.gpu_execution_accelerator.add(name="tensorrt")
        tensorrt.parameters["precision_mode"] = target.modes[serving.part.precision]
    _set_parameters(config, {**describe(serving), FILE_SHA256: file_sha256})
    return config


def decode_config(serving: Serving) -> Any:
    """Makes the configuration of the step from the bytes of image files to frames."""
    pb = import_messages()
    config = pb.ModelConfig(
        name=serving.name + DECODE,
        backend="python",
        default_model_filename="model.py",
        max_batch_size=serving.spec.max_batch,
        input=[pb.ModelInput(name=ENCODED, data_type=pb.TYPE_STRING, dims=[1])],
        output=[_frames(pb.ModelOutput, pb, serving.spec)],
        dynamic_batching=pb.ModelDynamicBatching(),
        instance_group=[_instances(pb, serving.instances, on_gpu=False)],
    )
    _set_parameters(config, {BUNDLE_SHA256: serving.bundle.digest})
    return config


def images_config(serving: Serving) -> Any:
    """Makes the configuration of the ensemble that takes the bytes of image files."""
    pb = import_messages()
    spec = serving.spec
    step = pb.ModelEnsembling.Step
    decode = step(model_name=serving.name + DECODE, model_version=-1)
    decode.input_map[ENCODED] = ENCODED
    decode.output_map[spec.input_name] = spec.input_name
    frames = step(model_name=serving.name, model_version=-1)
    frames.input_map[spec.input_name] = spec.input_name
    for name in spec.output_names:
        frames.output_map[name] = name
    config = pb.ModelConfig(
        name=serving.name + IMAGES,
        platform="ensemble",
        max_batch_size=spec.max_batch,
        input=[pb.ModelInput(name=ENCODED, data_type=pb.TYPE_STRING, dims=[1])],
        output=[_output(pb, output, serving) for output in spec.outputs],
        ensemble_scheduling=pb.ModelEnsembling(step=[decode, frames]),
    )
    _set_parameters(config, describe(serving))
    return config


def describe(serving: Serving) -> dict[str, str]:
    """Returns what a model says of itself: its bundle, precision, outputs and golden samples."""
    manifest, part = serving.bundle.manifest, serving.part
    graphs = {
        precision: {k: g for k, g in entry.graphs.items() if part.graph in (None, g)}
        for precision, entry in manifest.precisions.items()
        if part.precision in (None, precision)
    }
    outputs = {
        output.name: {
            "kind": output.kind,
            "shape": list(output.shape),
            "rms_tolerance": {
                precision: {kind: graph.rms_tolerance[output.name] for kind, graph in ours.items()}
                for precision, ours in graphs.items()
            },
        }
        for output in serving.spec.outputs
    }
    facts = {
        BUNDLE_SHA256: serving.bundle.digest,
        OUTPUTS: json.dumps(outputs, sort_keys=True),
        PREPROCESS: json.dumps(dataclasses.asdict(manifest.preprocess), sort_keys=True),
        GOLDEN_FILE: serving.golden_file,
    }
    if part.precision is not None:
        facts[PRECISION] = part.precision
    if part.graph is not None:
        facts[GRAPH] = "gpu" if part.target.on_gpu else "cpu"
    if serving.threads is not None:
        facts[THREADS] = str(serving.threads)
    return facts


def warmup_sizes(serving: Serving) -> Sequence[int]:
    """Lists the batch sizes that are warmed up: one image, and those that are preferred."""
    return sorted({1, *serving.batches})


def warmup_file(size: int) -> str:
    """Names the file with the golden samples of a warm-up, in the model's folder `warmup`."""
    return f"golden-{size}"


def _set_parameters(config: Any, facts: dict[str, str]) -> None:
    for name, value in facts.items():
        config.parameters[name].string_value = value


def _frames(message: Any, pb: Any, spec: EngineSpec) -> Any:
    return message(name=spec.input_name, data_type=pb.TYPE_UINT8, dims=spec.image_shape)


def _output(pb: Any, output: OutputSpec, serving: Serving) -> Any:
    labelled, labels = serving.spec.labelled, serving.bundle.manifest.labels
    names = labels is not None and labelled is not None and labelled.name == output.name
    return pb.ModelOutput(
        name=output.name,
        data_type=pb.TYPE_FP32,
        # Triton has no outputs without a dimension: a single number is [1], reshaped.
        dims=output.shape or (1,),
        reshape=None if output.shape else pb.ModelTensorReshape(),
        label_filename=LABELS if names else "",
    )


def _instances(pb: Any, count: int, on_gpu: bool) -> Any:
    group = pb.ModelInstanceGroup
    return group(count=count, kind=group.KIND_GPU if on_gpu else group.KIND_CPU)


def _warmup(pb: Any, spec: EngineSpec, size: int) -> Any:
    warmup = pb.ModelWarmup(name=warmup_file(size), batch_size=size)
    frames = warmup.inputs[spec.input_name]
    frames.data_type = pb.TYPE_UINT8
    frames.dims.extend(spec.image_shape)
    frames.input_data_file = warmup_file(size)
    return warmup
