"""An edge app in a few lines: scores every picture of a folder as if a camera gave it.

    python -m runtime.example_app build/vit_digits FOLDER

Expected: a line for each picture with its class and the engine's time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from runtime import Engine, InputError, VitEdgeError


def watch(bundle: Path, folder: Path) -> None:
    """Prints the class of each picture. Raises VitEdgeError if the bundle or a picture is bad."""
    if not folder.is_dir():
        raise InputError(f"there is no folder of pictures at {folder}")
    with Engine.load(bundle) as engine:
        print(f"{engine.info.precision} on {engine.info.backend}, {engine.info.device}")
        for path in sorted(folder.iterdir()):
            frame = engine.preprocess.read(path)
            start = time.perf_counter()
            scores = engine(frame[None])[0]
            milliseconds = 1e3 * (time.perf_counter() - start)
            best = int(scores.argmax())
            name = engine.labels[best] if engine.labels else best
            print(f"{path.name}: class {name}, {milliseconds:.2f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        watch(arguments.bundle, arguments.folder)
    except VitEdgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
