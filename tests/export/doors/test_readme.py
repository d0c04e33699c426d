"""The README's way from a module to an engine runs, and is typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .models import SIDE, Tiny, to_map

ROOT = Path(__file__).parents[3]


def _example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "export_model" in block]
    return str(example)


def test_the_readmes_module_becomes_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (160, SIDE, SIDE, 3), dtype=np.uint8)
    model = Tiny(lambda tokens, logits: {"logits": logits, "depth": to_map(tokens), "all": tokens})
    names = {"model": model, "images": images, "labels": np.zeros(160, np.int64)}
    fast = _example().replace("preprocess=", 'precisions=["fp32"], targets=[], preprocess=')
    exec(compile(fast, "README.md", "exec"), names)
    answers = names["answers"]
    assert {name: value.shape for name, value in answers.items()} == {  # type: ignore[attr-defined]
        "logits": (8, 5),
        "depth": (8, SIDE, SIDE),
    }
    assert capsys.readouterr().out.startswith("{}\n")


@pytest.mark.slow
def test_the_readmes_module_is_typed(tmp_path: Path) -> None:
    head = "import numpy as np\nimport torch\n\nmodel: torch.nn.Module = torch.nn.Identity()\n"
    arrays = "images = np.zeros((160, 4, 4, 3), np.uint8)\nlabels = np.zeros(160, np.int64)\n"
    (tmp_path / "app.py").write_text(head + arrays + _example())
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, str(tmp_path / "app.py")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "Success" in done.stdout, done.stdout
