"""Openers of the contenders, for their own processes and environments.

Only numpy and `runtime` can be counted on; libraries are imported where they are used. What is
timed is the model: peers get their input normalised and laid out beforehand, ours take raw pixels
and normalise inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_edge.vit.variants import find_variant

Pixels = NDArray[np.uint8]
"""`[N, height, width, channels]`"""
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """Request to open one contender.

    Attributes:
        variant: The model's name.
        folder: The model's files, see `benchmarks.speed.subject`.
        opener: A key of `OPENERS`.
        setting: See `benchmarks.speed.contenders.Contender`.
        file: The ONNX file or the bundle that it runs, if it runs one.
        threads: Number for PyTorch; the runtimes choose the same themselves, and treat their
            threads differently if it is set.
    """

    variant: str
    folder: str
    opener: str
    setting: str
    file: str
    threads: int


@dataclass(frozen=True)
class Opened:
    """A contender for one batch size.

    Attributes:
        prepare: Turns frames into its input; not timed.
        run: Turns its input into its output; timed.
        finish: Turns its output into logits; not timed.
    """

    prepare: Callable[[Pixels], Any]
    run: Callable[[Any], Any]
    finish: Callable[[Any], Logits] = lambda output: output


Open = Callable[[int], Opened]
"""From a batch size."""


def normalise(images: Pixels, variant: str) -> NDArray[np.float32]:
    """Returns float32 `[N, channels, height, width]`, the input of PyTorch and plain exports."""
    preprocess = find_variant(variant).preprocess
    mean, std = (np.asarray(v, np.float32) for v in (preprocess.mean, preprocess.std))
    scaled = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def onnx_in_onnxruntime(job: Job) -> Open:
    """Opens an ONNX file in ONNX Runtime, its batch fixed.

    Source: ONNX Runtime Python API (SessionOptions.add_free_dimension_override_by_name).
    """
    import onnxruntime

    def open_batch(batch: int) -> Opened:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name("batch", batch)
        session = onnxruntime.InferenceSession(
            job.file, options, providers=["CPUExecutionProvider"]
        )
        (taken,) = session.get_inputs()
        return Opened(
            _preparation(taken.type == "tensor(uint8)", job.variant),
            lambda images: session.run(None, {taken.name: images})[0],
        )

    return open_batch


def onnx_in_openvino(job: Job) -> Open:
    """Opens an ONNX file in OpenVINO, its batch fixed following the documentation; the setting is
    the precision hint, or empty for the default.

    Raises:
        ValueError: if the CPU does not have the precision.

    Source: OpenVINO Python API (Model.reshape, Core.compile_model), CPU device documentation.
    """
    from vit_edge.runtime.backends.openvino import load_library

    library = load_library()
    core = library.Core()
    if job.setting == "bf16" and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise ValueError("this CPU has no bf16")
    properties = {"PERFORMANCE_HINT": "LATENCY"}  # naming its own number of threads would pin them
    if job.setting:
        properties["INFERENCE_PRECISION_HINT"] = job.setting

    def open_batch(batch: int) -> Opened:
        model = core.read_model(job.file)
        model.reshape([batch, *list(model.input().partial_shape)[1:]])
        request = core.compile_model(model, "CPU", properties).create_infer_request()
        is_raw = model.input().element_type == library.Type.u8

        def run(tensor: Any) -> Any:
            request.set_input_tensor(tensor)
            request.infer()
            return request.get_output_tensor().data

        prepare = _preparation(is_raw, job.variant)
        return Opened(lambda images: library.Tensor(prepare(images)), run, np.copy)

    return open_batch


def _preparation(is_raw: bool, variant: str) -> Callable[[Pixels], NDArray[Any]]:
    return np.ascontiguousarray if is_raw else lambda images: normalise(images, variant)


def engine(job: Job) -> Open:
    """Opens our engine like an application: frames in, any batch, default threads.

    Raises:
        ValueError: if the backend does not run the precision.
    """
    from vit_edge.runtime import Engine
    from vit_edge.runtime.backends import find_backend

    if job.setting in find_backend(job.opener).lacks:
        raise ValueError(f"{job.opener} has no kernels for {job.setting}")
    opened = Engine.load(job.file, precision=job.setting, backend=job.opener)
    return lambda batch: Opened(np.ascontiguousarray, opened)


def torch_eager(job: Job) -> Open:
    model, dtype = _torch_model(job)
    return lambda batch: _torch_opened(job, model, dtype)


def torch_compile(job: Job) -> Open:
    """Compiles the model for each batch size, weights frozen into the code.

    Source: torch.compile, torch._inductor.config.freezing (TORCHINDUCTOR_FREEZING).
    """
    import torch
    from torch._inductor import config

    config.freezing = True
    model, dtype = _torch_model(job)
    return lambda batch: _torch_opened(job, torch.compile(model, dynamic=False), dtype)


def torchao(job: Job) -> Open:
    """Compiles the model with INT8 weights per channel and dynamic INT8 activations per token.

    Source: torchao (quantize_, Int8DynamicActivationInt8WeightConfig), whose x86 advice is
    torch.compile with freezing.
    """
    import torch
    from torch._inductor import config
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    config.freezing = True
    model, dtype = _torch_model(job)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return lambda batch: _torch_opened(job, torch.compile(model, dynamic=False), dtype)


def _torch_model(job: Job) -> tuple[Any, Any]:
    """Returns the model in its setting's type, and that type."""
    import torch

    from vit_edge.vit.vision_transformer import VisionTransformer

    torch.set_num_threads(job.threads)
    dtype = torch.bfloat16 if job.setting == "bf16" else torch.float32
    model = VisionTransformer.from_config(find_variant(job.variant).config).eval()
    model.load_state_dict(torch.load(Path(job.folder) / "weights.pt", weights_only=True))
    return model.to(dtype).requires_grad_(False), dtype


def _torch_opened(job: Job, model: Any, dtype: Any) -> Opened:
    import torch

    def run(images: Any) -> Any:
        with torch.inference_mode():
            return model(images)

    return Opened(
        lambda images: torch.from_numpy(normalise(images, job.variant)).to(dtype),
        run,
        lambda logits: logits.float().numpy(),
    )


OPENERS: dict[str, Callable[[Job], Open]] = {
    "onnx_in_onnxruntime": onnx_in_onnxruntime,
    "onnx_in_openvino": onnx_in_openvino,
    "onnxruntime": engine,
    "openvino": engine,
    "torch_eager": torch_eager,
    "torch_compile": torch_compile,
    "torchao": torchao,
}
