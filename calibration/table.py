"""The calibration table: observed ranges, with the model and data that they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.schema import SchemaError, decode, encode


@dataclass(frozen=True)
class Origin:
    """Identity of a model by SHA-256: of its weights, and of the preprocessing of its images."""

    weights: str
    preprocess: str


@dataclass(frozen=True)
class Provenance:
    """Model and data that a table belongs to.

    Attributes:
        origin: The model.
        graph: SHA-256 of the optimised fp32 graph that was observed.
        data: SHA-256 of the images; `data_source` names them in words, `images` is their number.
        method: The calibration method.
    """

    origin: Origin
    graph: str
    data: str
    data_source: str
    images: int
    method: str

    def differences(self, other: Provenance) -> tuple[str, ...]:
        """Lists all that differs from `other`, in words with both values."""
        pairs = {
            "weights": (self.origin.weights, other.origin.weights),
            "preprocessing": (self.origin.preprocess, other.origin.preprocess),
            "images": (self.data, other.data),
            "method": (self.method, other.method),
            "graph": (self.graph, other.graph),
        }
        return tuple(
            f"{name} {table[:12]}, here {here[:12]}"
            for name, (table, here) in pairs.items()
            if table != here
        )


@dataclass(frozen=True)
class CalibrationTable:
    """Activation ranges by the name of the tensor in the optimised fp32 graph.

    Attributes:
        provenance: Model and data that they were observed on.
        amax: The largest magnitude that an INT8 quantiser of this tensor represents; for inputs of
            Linears.
        peak: The largest magnitude seen; for every floating-point activation.
    """

    provenance: Provenance
    amax: dict[str, float]
    peak: dict[str, float]

    def to_json(self) -> str:
        return encode(self)

    def require(self, expected: Provenance) -> None:
        """Raises InputError, which names what differs, if the table belongs to something else."""
        differences = self.provenance.differences(expected)
        if differences:
            raise InputError(
                f"the calibration table belongs to something else: it was made for "
                f"{'; '.join(differences)}. Calibrate again"
            )


def read_table(path: Path) -> CalibrationTable:
    """Reads a table. Raises InputError if it is not one."""
    try:
        return decode(CalibrationTable, json.loads(path.read_text()))
    except (OSError, ValueError, SchemaError) as error:
        raise InputError(f"{path} is not a calibration table: {error}") from None
