"""The calibration table: what was observed, and of what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.schema import SchemaError, decode, encode


@dataclass(frozen=True)
class Origin:
    """What a model is made of, by SHA-256: its weights, and the preprocessing of its images."""

    weights: str
    preprocess: str


@dataclass(frozen=True)
class Provenance:
    """What a table belongs to.

    Attributes:
        origin: The model.
        graph: SHA-256 of the optimised fp32 graph that was observed.
        data: SHA-256 of the images; `data_source` and `images` say which and how many in words.
        method: The calibration method.
    """

    origin: Origin
    graph: str
    data: str
    data_source: str
    images: int
    method: str

    def differences(self, other: Provenance) -> tuple[str, ...]:
        """What this table was made of and what `other` is, for all that is not the same."""
        pairs = {
            "weights": (self.origin.weights, other.origin.weights),
            "preprocessing": (self.origin.preprocess, other.origin.preprocess),
            "images": (self.data, other.data),
            "method": (self.method, other.method),
            "graph": (self.graph, other.graph),
        }
        return tuple(
            f"{what} {made[:12]}, here {here[:12]}"
            for what, (made, here) in pairs.items()
            if made != here
        )


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
