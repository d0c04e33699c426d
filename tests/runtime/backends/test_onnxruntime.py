from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_nothing_is_reported_to_the_librarys_maker(bundle_source: Path, tmp_path: Path) -> None:
    """With telemetry on, a device id appears in the cache as soon as a session opens."""
    code = f"from runtime import Engine; Engine.load({str(bundle_source)!r}).close()"
    ours = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], check=True, env=ours, cwd=ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["vit-edge"]
