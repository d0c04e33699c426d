"""Images, the unit of systemd and the manifest of Kubernetes, by the linters of their fields."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))
UNIT = ROOT / "deploy/systemd/vit-edge.service"
KUBERNETES = ROOT / "deploy/kubernetes/vit-edge.yaml"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_dockerfiles_are_clean(file: Path) -> None:
    done = run(Path(sys.executable).with_name("hadolint"), file)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_images_run_as_no_root_and_say_if_they_are_well(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*\["vit-edge", "check", .*"/bundle"\]$', last, re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_what_images_ask_for_and_what_is_pinned_go_together(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    lines = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    for removed in re.findall(r"sed -i '/(\S+)/d' requirements/constraints.txt", text):
        lines = [line for line in lines if not re.search(removed, line)]
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    python = "3.10" if "jetpack6" in file.name else "3.12"
    asked = [Requirement(part) for part in re.findall(r'"([a-z-]+[<>=][^"]+)"', text)]
    assert asked or "cpu" in file.name
    for requirement in asked:
        for pin in pins:
            here = pin.marker is None or pin.marker.evaluate({"python_version": python})
            if pin.name == requirement.name and here:
                (version,) = (part.version for part in pin.specifier)
                assert version in requirement.specifier, f"{requirement} against {pin}"


def test_the_context_has_what_a_build_needs() -> None:
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert all((ROOT / name).exists() for name in kept)
    links = {f"vit_edge/{path.name}" for path in (ROOT / "vit_edge").iterdir() if path.is_symlink()}
    assert {link.partition("/")[2] for link in links} <= set(kept)


def test_the_manifest_is_valid_and_honours_limits() -> None:
    done = run(
        Path(sys.executable).with_name("kubernetes-validate"), "-k", "1.34", "--strict", KUBERNETES
    )
    assert done.returncode == 0, done.stdout
    deployment = next(yaml.safe_load_all(KUBERNETES.read_text()))
    pod = deployment["spec"]["template"]["spec"]
    (check,), (service,) = pod["initContainers"], pod["containers"]
    assert check["command"] == ["vit-edge", "check", "/bundle"]
    assert check["resources"] == service["resources"]  # what it measures holds for the service
    assert service["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_the_unit_checks_before_it_serves(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    assert "vit-edge check" in unit["Service"]["ExecStartPre"]
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"/opt/vit-edge/bin/\S+", "/bin/true", UNIT.read_text()))
    done = run(verify, "verify", copy)
    assert not done.stdout.strip(), done.stdout
