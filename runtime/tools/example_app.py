"""An edge app in a few lines: what the model sees in a folder, an image, a video or a camera.

    python -m vit_edge.runtime.tools.example_app build/vit_digits FOLDER

Expected: a line for each image with its class, then how many there were in a second, reading
and scaling them included.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vit_edge.runtime import Engine
from vit_edge.runtime.tools.command_line import run_program

from .image_sources import read_images, score


def watch(bundle: Path, source: str) -> None:
    """Prints the class of each image. Raises VitEdgeError if the bundle or an image is bad."""
    with Engine.load(bundle) as engine:
        print(f"{engine.info.precision} on {engine.info.backend}, {engine.info.device}")
        start, count = time.perf_counter(), 0
        for image, scores in score(engine, read_images(source, engine.preprocess)):
            best = engine.top(scores)[0]
            print(f"{image.name}: class {best.label}, {best.probability:.1%}")
            count += 1
        print(f"{count / (time.perf_counter() - start):.1f} images a second")


def main() -> int:
    """Runs the application and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", help="a folder, an image, a video, or a camera's index, as 0")
    arguments = parser.parse_args()
    return run_program("example_app", lambda: watch(arguments.bundle, arguments.source))


if __name__ == "__main__":
    sys.exit(main())
