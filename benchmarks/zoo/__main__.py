"""Exports every model of the zoo by every door, and writes down what became of it.

    python -m benchmarks.zoo [--only NAME ...] [--door DOOR ...] [--engines] [--again]
        [--precision P ...] [--markdown FILE]

A process for each trial, with a time limit. Results are lines of JSON in `build/zoo/`; a trial that
has one is not repeated, unless `--again` asks for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from .apart import run_apart
from .models import Entry, read_entries
from .table import write_table
from .trial import DOORS, Record, Settings, decode, encode

FOLDER = Path("build/zoo")


def main() -> None:
    """Runs the trials that are asked for, then writes the document."""
    arguments = _arguments()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / arguments.results
    targets = ("tensorrt-rtx",) if arguments.engines else ()
    settings = Settings(tuple(arguments.precision), targets)
    entries = [e for e in read_entries() if _matches(e, arguments.only)]
    done = {} if arguments.again else read_records(results)
    for entry in entries:
        for door in arguments.door:
            if (entry.library, entry.name, door) in done:
                continue
            record = run_apart(entry, door, settings, folder)
            with open(results, "a") as file:
                file.write(encode(record) + "\n")
            print(f"{record.seconds:6.1f} s  {entry.name}, {door}: {record.outcome}  "
                  f"{record.error[:300]}", flush=True)  # fmt: skip
    if arguments.markdown is not None:
        write_table(arguments.markdown, list(read_records(results).values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="parts of names")
    parser.add_argument("--door", nargs="+", default=list(DOORS), choices=list(DOORS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--engines", action="store_true", help="build TensorRT for RTX engines")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--results", default="results.jsonl")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def _matches(entry: Entry, names: Sequence[str]) -> bool:
    return not names or any(
        name.lower() in f"{entry.library}:{entry.name}".lower() for name in names
    )


def read_records(results: Path) -> dict[tuple[str, str, str], Record]:
    """Returns the latest record of each model and door."""
    return {(r.library, r.name, r.door): r for r in _records(results)}


def _records(results: Path) -> Iterator[Record]:
    if results.exists():
        yield from map(decode, results.read_text().splitlines())


if __name__ == "__main__":
    main()
