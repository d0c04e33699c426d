"""Calling any module: one batch of images in, named tensors out."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vit_edge.export.outputs import safe_name
from vit_edge.export.passes import WRAPPER
from vit_edge.runtime.errors import InputError, first_line

_SAME = 1e-4
"""Of an output's largest number: the most by which others may differ where other images are in the
batch.
"""
_ONLY = "output"


@dataclass(frozen=True)
class Named:
    """Tensors by name, and what beside them was returned: name and kind in words."""

    tensors: dict[str, Tensor]
    others: dict[str, str]


def name_outputs(returned: Any) -> Named:
    """Names what a module returned: a mapping's keys, a tuple's or dataclass's fields, `output` for
    one tensor, `output_0`, `output_1`, ... for several without names. None is no output.
    """
    if isinstance(returned, Tensor):
        items: dict[str, Any] = {_ONLY: returned}
    elif isinstance(returned, Mapping):  # a ModelOutput of transformers is one
        items = {safe_name(str(key)): value for key, value in returned.items()}
    elif dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        items = {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
    elif isinstance(returned, (tuple, list)):
        fields = getattr(returned, "_fields", None)
        numbers = [i for i, value in enumerate(returned) if value is not None]
        single = fields is None and len(numbers) == 1
        names = [_ONLY] if single else fields or [f"{_ONLY}_{i}" for i in numbers]
        values = returned if fields else [returned[i] for i in numbers]
        items = dict(zip(names, values, strict=True))
    else:
        raise InputError(
            f"the model returns a {type(returned).__name__}: a tensor, a tuple, a mapping or a "
            "ModelOutput is expected"
        )
    items = {name: value for name, value in items.items() if value is not None}
    tensors = {name: value for name, value in items.items() if isinstance(value, Tensor)}
    others = {n: type(value).__name__ for n, value in items.items() if n not in tensors}
    return Named(tensors, others)


class ImageCall(nn.Module):
    """A module as it is exported and as it is the oracle: float32 `[B, C, H, W]` in, a tuple of the
    outputs `names` in float32 out.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.add_module(WRAPPER, module)
        self.names, self._keyword = names, _image_keyword(module)
        self.eval()  # exporters put all back into the mode of the outermost module

    def call(self, images: Tensor) -> Any:
        """Calls the module; returns its outputs."""
        module = self.get_submodule(WRAPPER)
        return module(images) if self._keyword is None else module(**{self._keyword: images})

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tensors = name_outputs(self.call(images)).tensors
        return tuple(tensors[name].float() for name in self.names)


def _image_keyword(module: nn.Module) -> str | None:
    """Transformers' own name of the images, which is not always its first argument's."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return None
    return "pixel_values" if "pixel_values" in parameters else None


def copy_module(module: nn.Module) -> nn.Module:
    """Returns a copy in fp32 on the CPU, in eval mode, that shares nothing with the original.

    Wrappers for training and compilation are taken off.

    Raises:
        InputError: if the module cannot be copied, or has no weights yet.
    """
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(module, wrapper, None)
        if type(module).__name__ in _WRAPPERS and isinstance(inner, nn.Module):
            module = inner
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            "the module is TorchScript: give the Python module that it was made of, or write it to "
            "ONNX by torch.onnx.export(..., dynamo=False) and use --onnx"
        )
    memo: dict[int, Any] = {}
    try:
        for part in module.modules():
            for values in (part._parameters, part._buffers, vars(part)):
                for value in values.values():
                    if isinstance(value, Tensor) and id(value) not in memo:
                        memo[id(value)] = _copy_tensor(value)
        clone = copy.deepcopy(module, memo)
    except InputError:
        raise
    except Exception as error:  # whatever the module's own attributes raise
        raise InputError(
            f"the module cannot be copied ({type(error).__name__}: {first_line(error)}), and it "
            "shall stay as it is: give one without locks, files and the like in its attributes"
        ) from None
    return clone.eval()


_WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def _copy_tensor(tensor: Tensor) -> Tensor:
    """On the CPU; floating-point numbers in fp32."""
    if nn.parameter.is_lazy(tensor) or tensor.is_meta:
        raise InputError("the module has weights without values: load them, or run it once")
    floating = tensor.is_floating_point() and tensor.dtype.itemsize > 1
    dtype = torch.float32 if floating else tensor.dtype
    moved = tensor.detach().to("cpu", dtype, copy=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, in hex."""
    state = hashlib.sha256()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


@dataclass(frozen=True)
class Called:
    """A module that was tried: the call for its usable outputs, and notes on the others."""

    call: ImageCall
    notes: tuple[str, ...]


def try_module(
    module: nn.Module, shape: tuple[int, int, int], asked: Collection[str] = ()
) -> Called:
    """Runs a module of `copy_module` on random images to see what it gives.

    Args:
        module: The module.
        shape: Channels, height and width of its images.
        asked: Names of outputs that are to be exported; all that can be used if there is none, or
            one that the module does not have, which is the graph's to say.

    Raises:
        InputError: if it fails, gives nothing for each image, an output that is asked for cannot be
            used, or the outputs of an image depend on the others or on chance.
    """
    images = torch.rand((4, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    call = ImageCall(module)
    first, again, second = (_run(call, images[rows]) for rows in ([0, 1, 2], [0, 1, 2], [3, 0]))
    unusable = {name: f"a {kind}" for name, kind in first.others.items()}
    for name, value in first.tensors.items():
        if not value.is_floating_point():
            unusable[name] = str(value.dtype).removeprefix("torch.")
        elif not value.ndim or len(value) != 3 or len(second.tensors[name]) != 2:
            unusable[name] = f"{list(value.shape)} for three images"
    for name in asked:
        if name in unusable:
            raise InputError(
                f"the output {name} ({unusable[name]}) is no tensor of floating-point numbers with "
                "a row for each image: leave it out"
            )
    usable = tuple(name for name in first.tensors if name not in unusable)
    if not usable:
        gives = ", ".join(f"{name} ({why})" for name, why in unusable.items()) or "nothing"
        raise InputError(f"the model gives {gives}: a tensor with a row for each image is expected")
    names = tuple(n for n in usable if n in asked) if {*asked} <= {*usable} and asked else usable
    for name in names:
        one, same, other = (
            named.tensors[name][row] for named, row in ((first, 0), (again, 0), (second, 1))
        )
        if not _agree(one, same):
            raise InputError(
                f"the model gives another {name} at every call: it draws random numbers in eval "
                "mode, which `forward` has to leave out (wrap the model in one that does)"
            )
        if not _agree(one, other):
            raise InputError(
                f"the output {name} of an image changes with the other images of its batch: a "
                "model that is deployed answers each image by itself"
            )
    call.names = names
    notes = [f"left out: the output {name}: {why}" for name, why in unusable.items()]
    notes += [
        f"left out: the output {n}: --output does not name it" for n in usable if n not in names
    ]
    return Called(call, tuple(notes))


def _run(call: ImageCall, images: Tensor) -> Named:
    try:
        with torch.inference_mode():
            return name_outputs(call.call(images))
    except InputError:
        raise
    except Exception as error:  # the module is the user's: it may raise anything
        raise InputError(
            f"the model fails on float32 images {list(images.shape)} "
            f"({type(error).__name__}: {first_line(error)}): it has to take one batch of "
            "normalised images, of the size that you give"
        ) from error


def _agree(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max()) or 1.0
    return one.shape == other.shape and float((one - other).abs().max()) <= _SAME * scale
