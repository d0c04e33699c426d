"""Rows of Parquet from the outputs of images, by their kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...answers import TopK
from ...outputs import KINDS, OutputSpec
from .decode import Decoded
from .parquet import require_pyarrow

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, PATH, ERROR = "index", "path", "error"
TOP_INDEX, NAMES, TOP_PROBABILITY = "_top_index", "_top_name", "_top_probability"
"""End the names of the columns with the likeliest classes."""
NOT_FINITE = "its outputs are not finite: the engine fails here, `vit-edge check` tells more"
_KEY = "vit_edge."
"""Prefix of the keys in a file's schema metadata."""
RUN = _KEY + "run"

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Columns:
    """Columns of a bundle's outputs: index, path, each output, of those of classes or labels the
    likeliest, and error.

    Attributes:
        outputs: The bundle's.
        labelled: The output whose values `labels` names; None where none does.
        labels: Names of classes, or None.
        top: Number of classes to name.
    """

    outputs: tuple[OutputSpec, ...]
    labelled: OutputSpec | None
    labels: tuple[str, ...] | None
    top: int

    def schema(self, facts: Mapping[str, str]) -> pa.Schema:
        """The schema; `facts` about the run go to its metadata, beside the outputs and classes."""
        arrow = require_pyarrow()
        fields = [
            arrow.field(INDEX, arrow.int64(), nullable=False),
            arrow.field(PATH, arrow.string(), nullable=False),
        ]
        described = []
        for output in self.outputs:
            name, kind = self.names[output.name], KINDS[output.kind]
            about = {"kind": kind.name, "about": kind.about, "shape": json.dumps(output.shape)}
            value = _list(arrow.float32()) if output.shape else arrow.float32()
            fields.append(arrow.field(name, value, metadata=about))
            described.append({"name": output.name, "column": name, **about, "shape": output.shape})
            if _is_ranked(output):
                fields.append(arrow.field(f"{name}{TOP_INDEX}", _list(arrow.int32())))
                if self._names(output) is not None:
                    fields.append(arrow.field(f"{name}{NAMES}", _list(arrow.string())))
                fields.append(arrow.field(f"{name}{TOP_PROBABILITY}", _list(arrow.float64())))
        fields.append(arrow.field(ERROR, arrow.string()))
        metadata = {_KEY + name: value for name, value in facts.items()}
        metadata[_KEY + "outputs"] = json.dumps(described)
        metadata[_KEY + "class_names"] = json.dumps(self.labels)
        return arrow.schema(fields, metadata=metadata)

    def table(
        self, schema: pa.Schema, images: Sequence[Decoded], outputs: Mapping[str, Values]
    ) -> pa.Table:
        """Rows of images.

        Args:
            schema: What `schema` returned.
            images: In order; those without a frame have rows without outputs.
            outputs: float32 `[n, *shape]` by their names, of the n images that have a frame.
        """
        arrow = require_pyarrow()
        read = [image.frame is not None for image in images]
        finite = np.ones(sum(read), np.bool_)
        for values in outputs.values():
            finite &= np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        usable = np.array(read, np.bool_)
        usable[usable] = finite
        columns: dict[str, Any] = {
            INDEX: [image.index for image in images],
            PATH: [image.path for image in images],
            ERROR: [_problem(image, bool(ok)) for image, ok in zip(images, usable, strict=True)],
        }
        for output in self.outputs:
            if output.name in outputs:
                values = outputs[output.name][finite]
            else:  # no image of these could be read
                values = np.zeros((0, *output.shape), np.float32)
            columns.update(self._columns(output, values, usable))
        arrays = [_array(columns[field.name], field.type) for field in schema]
        return arrow.Table.from_arrays(arrays, schema=schema)

    @cached_property
    def names(self) -> dict[str, str]:
        """The columns of the outputs: their own names, but where another column has that."""
        taken, names = {INDEX, PATH, ERROR}, dict[str, str]()
        for output in self.outputs:
            endings = ("", TOP_INDEX, NAMES, TOP_PROBABILITY) if _is_ranked(output) else ("",)
            name = output.name
            while any(name + ending in taken for ending in endings):
                name += "_output"
            taken.update(name + ending for ending in endings)
            names[output.name] = name
        return names

    def _names(self, output: OutputSpec) -> tuple[str, ...] | None:
        return self.labels if output == self.labelled else None

    def _columns(
        self, output: OutputSpec, values: Values, usable: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """An output's columns by their names, with None for images that are not `usable`."""
        name = self.names[output.name]
        columns: dict[str, Any] = {name: _nullable(values, usable)}
        if _is_ranked(output):
            top = TopK(self._names(output), output)
            ranked = iter(top.each(values, self.top) if len(values) else ())
            answers = [next(ranked) if ok else None for ok in usable]
            for ending, attribute in (
                (TOP_INDEX, "index"), (NAMES, "label"), (TOP_PROBABILITY, "probability"),
            ):  # fmt: skip
                columns[f"{name}{ending}"] = [
                    None if each is None else [getattr(answer, attribute) for answer in each]
                    for each in answers
                ]
        return columns


def _is_ranked(output: OutputSpec) -> bool:
    return output.classifies or output.is_of_labels


def _problem(image: Decoded, usable: bool) -> str | None:
    return image.error or (None if usable else f"{image.path}: {NOT_FINITE}")


def _list(value: pa.DataType) -> pa.DataType:
    """A list as Parquet itself names its parts."""
    arrow = require_pyarrow()
    return arrow.list_(arrow.field("element", value))


def _nullable(values: Values, usable: NDArray[np.bool_]) -> Any:
    """Values `[n, *shape]` of the usable images, row by row in one list each; null for others."""
    arrow = require_pyarrow()
    if values.ndim == 1:
        numbers = np.zeros(len(usable), np.float32)
        numbers[usable] = values
        return arrow.array(numbers, mask=~usable)
    size = int(np.prod(values.shape[1:]))
    ends = accumulate((size if ok else 0 for ok in usable), initial=0)
    offsets = arrow.array(list(ends), arrow.int32())
    flat = arrow.array(values.reshape(-1), arrow.float32())
    return arrow.ListArray.from_arrays(
        offsets, flat, type=_list(arrow.float32()), mask=arrow.array(~usable)
    )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    arrow = require_pyarrow()
    return values if isinstance(values, arrow.Array) else arrow.array(values, kind)
