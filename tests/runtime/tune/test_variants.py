"""Variants compute what the default computes, and no setting is taken for another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime.backends import BACKENDS, RunVariant, Session
from vit_edge.runtime.backends.openvino import OpenVino
from vit_edge.runtime.backends.openvino.session import OpenVinoSession
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.schema import SchemaError
from vit_edge.runtime.tools.tune.kept import try_variant
from vit_edge.runtime.tools.tune.variants import join, propose_settings

CPU = ("openvino", "onnxruntime")


@pytest.fixture(params=CPU)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def proposed(session: Session, candidate: Candidate, *batches: int) -> dict[str, RunVariant]:
    proposals = propose_settings(candidate, session, batches)
    return {p.variant.name: p.variant for p in proposals}


@pytest.fixture
def deployment(bundle_source: Path) -> Deployment:
    return Deployment(Bundle.open(bundle_source))


@pytest.fixture
def session(deployment: Deployment, backend: str) -> Iterator[Session]:
    opened = deployment.open(Candidate("int8", BACKENDS[backend]))
    yield opened
    opened.close()


class TwoThreads:
    """A session that two threads compute, wherever this test runs."""

    takes_device_arrays = False
    threads = 2


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_variant_answers_right(
    deployment: Deployment, backend: str, precision: str, digit_frames: np.ndarray
) -> None:
    candidate = Candidate(precision, BACKENDS[backend])
    with closing(deployment.open(candidate)) as session:
        variants = proposed(session, candidate, 1, 4)
        expected = session.run(digit_frames[:4])
    assert len(variants) >= 2
    for variant in variants.values():
        opened = try_variant(deployment, replace(candidate, variant=variant))
        with closing(opened.session):
            assert opened.problem is None, variant.name
            np.testing.assert_allclose(opened.session.run(digit_frames[:4]), expected, atol=0.5)


def test_nothing_of_a_variant_that_was_tried_is_remembered(
    deployment: Deployment, session: Session, backend: str
) -> None:
    before = deployment.cache.findings()
    candidate = Candidate("int8", BACKENDS[backend])
    for variant in proposed(session, candidate, 1).values():
        try_variant(deployment, replace(candidate, variant=variant)).session.close()
    assert deployment.cache.findings() == before
    assert deployment.cache.read()[1] == {}


def test_what_suits_the_model_is_not_proposed_again(deployment: Deployment) -> None:
    candidate = Candidate("fp32", BACKENDS["openvino"])
    with closing(deployment.open(candidate)) as session:
        assert isinstance(session, OpenVinoSession)
        assert (session.settings.linears, session.settings.batches) == ("products", "together")
        names = proposed(session, candidate, 1, 4).keys()
        assert {"Linears as convolutions", "each image apart"} <= names
        assert "Linears as products" not in names
        assert "each image apart" not in proposed(session, candidate, 1), "it has one image"
    turned = replace(candidate, variant=RunVariant("x", {"linears": "convolutions"}))
    with closing(try_variant(deployment, turned).session) as session:
        assert isinstance(session, OpenVinoSession)
        assert session.settings.linears == "convolutions"
        assert "Linears as products" in proposed(session, candidate, 1)


def test_fp32_is_never_computed_in_fewer_bits(
    monkeypatch: pytest.MonkeyPatch, deployment: Deployment
) -> None:
    monkeypatch.setattr(OpenVino, "has_type", lambda self, name: True)
    arithmetic = {}
    for precision in ("fp32", "fp16", "int8"):
        candidate = Candidate(precision, BACKENDS["openvino"])
        with closing(deployment.open(Candidate("fp32", candidate.backend))) as session:
            settings = [v.settings for v in proposed(session, candidate, 1).values()]
        arithmetic[precision] = {s["arithmetic"] for s in settings if "arithmetic" in s}
    assert arithmetic == {"fp32": set(), "fp16": {"f16"}, "int8": {"f32", "f16"}}


def test_fewer_threads_are_tried_where_the_user_asked_for_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidate = Candidate("int8", BACKENDS["onnxruntime"])
    names = proposed(TwoThreads(), candidate, 1).keys()  # type: ignore[arg-type]
    assert {"1 thread", "no spinning", "smaller shares for threads"} <= names
    asked = proposed(TwoThreads(), replace(candidate, threads=2), 1)  # type: ignore[arg-type]
    assert "1 thread" not in asked
    monkeypatch.setattr(TwoThreads, "threads", 8)
    assert {"1 thread", "4 threads"} <= proposed(TwoThreads(), candidate, 1).keys()  # type: ignore[arg-type]


def test_the_number_of_threads_is_set(deployment: Deployment, backend: str) -> None:
    candidate = Candidate("fp32", BACKENDS[backend], variant=RunVariant("1", {"threads": 1}))
    with closing(try_variant(deployment, candidate).session) as session:
        assert session.threads == 1
    most = len(os.sched_getaffinity(0))
    with closing(try_variant(deployment, replace(candidate, threads=most)).session) as session:
        assert session.threads == most, "what the user asks for goes before"


@pytest.mark.parametrize(
    "settings",
    [
        {"hyper_threading": "on"},
        {"hyper_threading": "off"},
        {"cores": "performance"},
        {"cores": "any"},
    ],
    ids=str,
)
def test_openvino_takes_settings_for_processors_that_are_not_here(
    deployment: Deployment, settings: dict[str, str | int | float | bool]
) -> None:
    variant = RunVariant("x", settings)
    opened = try_variant(deployment, Candidate("fp32", BACKENDS["openvino"], variant=variant))
    with closing(opened.session):
        assert opened.problem is None


@pytest.mark.parametrize(
    "settings",
    [{"linears": "curves"}, {"colour": "blue"}, {"threads": -1}, {"optimisation": "most"}],
)
def test_settings_that_no_backend_has_are_refused(
    backend: str, settings: dict[str, str | int | float | bool]
) -> None:
    with pytest.raises(SchemaError):
        BACKENDS[backend].tuned(settings)


def test_settings_are_joined_where_they_do_not_contradict() -> None:
    one, other, third = (
        RunVariant(name, {key: name}) for name, key in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    joined = join([one, other, third])
    assert joined is not None
    assert (joined.name, joined.settings) == ("a, c", {"x": "a", "y": "c"})
    assert join([one, other]) is None
