"""Virtual environments of the peers: their requirements conflict with each other's and ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def python_of(environment: str, cache: Path) -> Path:
    """Returns the interpreter of `peers/<environment>.txt`, installed on first use, or our own.

    Raises:
        RuntimeError: with pip's last line, if it cannot be installed.
    """
    if environment == "ours":
        return Path(sys.executable)
    requirements = (PEERS / f"{environment}.txt").read_text()
    folder = cache.absolute() / "venvs" / environment
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirements:
        return python
    print(f"installing {', '.join(requirements.split())}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command: list[str | Path]
    command = [python, "-m", "pip", "install", "-q", "-r", PEERS / f"{environment}.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    stamp.write_text(requirements)
    return python
