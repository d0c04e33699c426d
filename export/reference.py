"""PyTorch's outputs, which everything is measured against, and the golden samples that travel with
a bundle.

Linears run in oneDNN, which comes with PyTorch: on CPUs that are not Intel's, the library that
PyTorch chooses takes twice as long. Either way they are computed in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.schema import decode_all, encode_all
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.vision_transformer import VisionTransformer

from .accuracy import Reference
from .outputs import find_scales, varied_images
from .progress import Update


def linears_by_one_dnn() -> AbstractContextManager[object]:
    """Context in which inference runs its Linears in oneDNN, if this PyTorch has it."""
    has_it = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_it and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return _LinearsByOneDNN()
    return nullcontext()


class _LinearsByOneDNN(TorchFunctionMode):
    """Replaces `torch.nn.functional.linear` where its operands are plain fp32 tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and not torch.is_grad_enabled():
            operands = _operands(*args, **kwargs)
            if all(map(_is_plain, operands)):
                values, weight, bias = operands
                return torch.ops.mkldnn._linear_pointwise(
                    values.contiguous(), weight, bias, "none", [], ""
                )
        return func(*args, **kwargs)


def _operands(
    input: Tensor,  # noqa: A002 (PyTorch's name, which callers may use)
    weight: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _is_plain(value: Tensor | None) -> bool:
    if value is None:
        return True
    dense = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    return (
        dense
        and value.dtype == torch.float32
        and value.device.type == "cpu"
        and bool(len(value.shape))
    )


Oracle = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images uint8 `[n, height, width, channels]` -> packed outputs float32 `[n, width]`."""

BATCH = 4
MAX_GOLDEN, MIN_GOLDEN, MAX_GOLDEN_BYTES = 256, 8, 8 << 20
MOST_GOLDEN_BYTES, FEWEST_LARGE = 64 << 20, 2
"""Most bytes of eight golden samples; if they take more, as with large maps, only two are kept."""


def vit_oracle(model: VisionTransformer, preprocess: Preprocess) -> Oracle:
    """The model in fp32 as PyTorch users run it: normalised floats in."""

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            values: NDArray[np.float32] = model(normalise(images, preprocess)).numpy()
        return values

    return run


def compute_reference(oracle: Oracle, images: ImageSet, update: Update) -> NDArray[np.float32]:
    """The oracle's packed outputs `[N, width]` of all images.

    Raises:
        InputError: if they are not finite.
    """
    parts: list[NDArray[np.float32]] = []
    with linears_by_one_dnn():
        for batch in images.batches(BATCH):
            parts.append(oracle(batch))
            update(min(len(parts) * BATCH, len(images)), len(images))
    return require_finite(np.concatenate(parts))


def require_finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raises InputError for outputs that are not finite."""
    if not np.isfinite(values).all():
        raise InputError("the model's own outputs are not finite: the weights are damaged")
    return values


def choose_golden(images: ImageSet, width: int, seed: int) -> NDArray[np.int64]:
    """Positions of the golden samples: at most 256 and 8 MiB, but always a few, in random order.

    The order is random because the check at load takes the first few, which must not all be of one
    class.
    """
    size = int(next(images.batches(1)).nbytes) + 4 * width
    fewest = MIN_GOLDEN if size * MIN_GOLDEN <= MOST_GOLDEN_BYTES else FEWEST_LARGE
    count = min(MAX_GOLDEN, max(fewest, MAX_GOLDEN_BYTES // size))
    return np.random.default_rng(seed).permutation(len(images))[:count]


def save_reference(
    folder: Path,
    oracle: Oracle,
    outputs: Sequence[OutputSpec],
    images: ImageSet,
    seed: int,
    update: Update,
) -> None:
    """Computes and writes `values.npy`, the outputs with their scales, `golden.npz` and the golden
    samples' positions.

    Raises:
        InputError: if the outputs are not finite.
    """
    values = compute_reference(oracle, images, update)
    shape = next(images.batches(1)).shape[1:]
    varied = np.concatenate([oracle(image[None]) for image in varied_images(shape, seed)])
    scaled = find_scales(outputs, values, varied, max(shape[:2]))
    np.save(folder / "values.npy", values)
    (folder / "outputs.json").write_text(encode_all(scaled))
    positions = choose_golden(images, values.shape[1], seed)
    np.save(folder / "positions.npy", positions)
    golden = images.subset(positions.tolist())
    arrays = {"images": next(golden.batches(len(golden))), "logits": values[positions]}
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    np.savez_compressed(folder / "golden.npz", **arrays)  # type: ignore[arg-type]


def load_reference(folder: Path, images: ImageSet) -> Reference:
    """Reads what `save_reference` wrote."""
    values, positions = (np.load(folder / f"{name}.npy") for name in ("values", "positions"))
    return Reference(values, load_outputs(folder), images.labels, positions)


def load_outputs(folder: Path) -> tuple[OutputSpec, ...]:
    """Reads the outputs, with their scales, of what `save_reference` wrote."""
    return decode_all(OutputSpec, (folder / "outputs.json").read_text())
