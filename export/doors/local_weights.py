"""Weights of a local file for a module whose architecture is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vit_edge.runtime.errors import InputError, first_line
from vit_edge.vit.checkpoints.choice import key_of, listed, matches, rank
from vit_edge.vit.checkpoints.formats import read_safetensors
from vit_edge.vit.checkpoints.pickles import read_pickle

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class LocalWeights:
    """Tensors of a file.

    Attributes:
        source: The file's name.
        tensors: By their paths in the file.
        key: Of several copies, the one that the user asks for.
    """

    source: str
    tensors: Mapping[str, Tensor]
    key: str | None

    def for_names(self, expected: Container[str]) -> tuple[Tensors, tuple[str, ...]]:
        """Returns the tensors of the copy of a model with these names, without what stands before
        them, and notes on what is left out; all tensors where no name is known.

        Raises:
            InputError: if there are several copies, and none is usually preferred or is `key`.
        """
        prefixes = Counter(_prefix(name, expected) for name in self.tensors)
        del prefixes[None]
        if not prefixes:
            return dict(self.tensors), ()
        most = max(prefixes.values())
        copies = [str(prefix) for prefix, count in prefixes.items() if count > most / 2]
        if self.key is not None:
            copies = [prefix for prefix in copies if matches(prefix, self.key)] or copies
        copies.sort(key=rank)
        if len(copies) > 1 and rank(copies[0]) == rank(copies[1]):
            raise InputError(
                f"{self.source} holds several copies of the model ({', '.join(map(key_of, copies))}"
                f"): choose one with --checkpoint-key, as --checkpoint-key {key_of(copies[0])}"
            )
        prefix = copies[0]
        own = {n[len(prefix) :]: t for n, t in self.tensors.items() if n.startswith(prefix)}
        beside = [name for name in self.tensors if not name.startswith(prefix)]
        notes = [f"weights of {key_of(prefix)} are taken"] if len(copies) > 1 else []
        if beside:
            notes.append(f"left out of {self.source}: {len(beside)} tensors, as {beside[0]}")
        return own, tuple(notes)


def _prefix(name: str, expected: Container[str]) -> str | None:
    """Returns what stands before a name of the model, at a boundary of components."""
    parts = name.split(".")
    starts = (i for i in range(len(parts)) if ".".join(parts[i:]) in expected)
    start = next(starts, None)
    return None if start is None else "".join(f"{part}." for part in parts[:start])


def read_weights(request: ExportRequest) -> LocalWeights:
    """Reads the request's file: safetensors, or of `torch.save`, by nothing that runs code.

    Raises:
        InputError: if the file is missing or damaged, or names what could execute code.
    """
    path = Path(str(request.weights))
    if not path.is_file():
        raise InputError(f"there is no file of weights at {path}: give .safetensors or .pth")
    safe = path.suffix.lower() == ".safetensors"
    tensors = (read_safetensors if safe else read_pickle)(path).tensors
    return LocalWeights(path.name, tensors, request.facts.checkpoint_key)


def load_weights(module: nn.Module, weights: LocalWeights) -> tuple[str, ...]:
    """Loads a file into the module, all that it takes; returns notes on what is left out.

    Raises:
        InputError: if names or shapes differ.
    """
    tensors, notes = weights.for_names(module.state_dict())
    _load(module, tensors, weights.source)
    return notes


def _load(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    expected = module.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": shapes,
    }
    if any(kinds.values()):
        why = "; ".join(f"{len(v)} {kind} ({listed(v)})" for kind, v in kinds.items() if v)
        raise InputError(
            f"{source} does not fit the model: {why}. Give the weights of this very architecture"
        )
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InputError(f"{source} does not fit the model: {first_line(error)}") from None


def build_for_weights(
    build: Callable[[int | None], nn.Module],
    weights: LocalWeights,
    convert: Callable[[nn.Module, Tensors], Tensors],
) -> tuple[nn.Module, tuple[str, ...]]:
    """Builds a model with as many classes as the weights have, and loads them.

    Args:
        build: Makes the model for a number of classes; None: its own, 0: without a head.
        weights: The file.
        convert: Brings tensors to a model's names and shapes, as timm's `checkpoint_filter_fn`.

    Returns:
        The model, and notes on what is left out of the file.

    Raises:
        InputError: if the weights are of another architecture.
    """
    module = build(None)
    expected = module.state_dict()
    tensors, notes = weights.for_names(expected)
    head = list(expected)[-1].rpartition(".")[0]
    rows = {
        len(tensors[name])
        for name, value in expected.items()
        if name in tensors
        and 0 < value.ndim == tensors[name].ndim
        and tensors[name].shape[1:] == value.shape[1:]
        and len(tensors[name]) != len(value)
    }
    if len(rows) == 1:
        module = build(rows.pop())
    elif f"{head}.weight" in expected and not any(n.startswith(f"{head}.") for n in tensors):
        module = build(0)
    _load(module, convert(module, tensors), weights.source)
    return module, notes
