"""The calibration table: what was observed, and of what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from runtime.schema import SchemaError, decode, encode


@dataclass(frozen=True)
class Provenance:
    """What a table belongs to. `graph` and `data` are SHA-256; `images` is how many were seen."""

    graph: str
    data: str
    data_source: str
    images: int
    method: str


@dataclass(frozen=True)
class CalibrationTable:
    """Activation ranges by the name of the tensor in the optimised fp32 graph.

    Attributes:
        provenance: What they were observed on.
        amax: The magnitude that an INT8 quantiser of this tensor represents at most; for inputs of
            Linears.
        peak: The largest magnitude seen; for every floating-point activation.
    """

    provenance: Provenance
    amax: dict[str, float]
    peak: dict[str, float]

    def to_json(self) -> str:
        return encode(self)

    def require(self, graph: str) -> None:
        """Raises InputError if the table was made of another graph than this SHA-256."""
        if self.provenance.graph != graph:
            raise InputError(
                f"the calibration table was made for graph {self.provenance.graph[:12]}, this "
                f"one is {graph[:12]}: "
                "weights, preprocessing or export differ; calibrate again"
            )


def read_table(path: Path) -> CalibrationTable:
    """Reads a table. Raises InputError if it is not one."""
    try:
        return decode(CalibrationTable, json.loads(path.read_text()))
    except (OSError, ValueError, SchemaError) as error:
        raise InputError(f"{path} is not a calibration table: {error}") from None
