"""The numbers that OpenTelemetry gets, read in memory and scraped as Prometheus does."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from vit_edge.runtime import Engine, InputError
from vit_edge.runtime.tools.health import DriftMonitor, HealthMetrics

OF_ENGINE = {"vit_edge.backend": "onnxruntime", "vit_edge.precision": "fp32"}


def load(bundle: Path, metrics: HealthMetrics, precision: str = "fp32") -> Engine:
    return Engine.load(bundle, precision, "onnxruntime", observer=metrics)


def read(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """The data points of each instrument."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {scope.scope.name for scope in scopes} == {"vit_edge"}
    return {m.name: list(m.data.data_points) for scope in scopes for m in scope.metrics}


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def test_calls_images_and_errors_are_counted_by_engine(
    bundle_source: Path, digit_frames: np.ndarray, reader: InMemoryMetricReader
) -> None:
    metrics = HealthMetrics(provider=MeterProvider([reader]))
    with load(bundle_source, metrics) as engine, load(bundle_source, metrics, "int8") as other:
        engine(digit_frames[:3])
        list(engine.stream([digit_frames[0], digit_frames]))
        other(digit_frames[:2])
        for _ in range(2):
            with pytest.raises(InputError):
                engine(digit_frames[0])
        with pytest.raises(TypeError):
            list(engine.stream(5))  # type: ignore[arg-type]
        device = engine.info.device
    points = read(reader)
    assert points.keys() == {"vit_edge.call.duration", "vit_edge.images", "vit_edge.errors"}
    images = {p.attributes["vit_edge.precision"]: p for p in points["vit_edge.images"]}
    assert {name: point.value for name, point in images.items()} == {"fp32": 14, "int8": 2}
    assert dict(images["fp32"].attributes) == {**OF_ENGINE, "vit_edge.device": device}
    durations = {p.attributes["vit_edge.precision"]: p for p in points["vit_edge.call.duration"]}
    assert {name: point.count for name, point in durations.items()} == {"fp32": 3, "int8": 1}
    fp32 = durations["fp32"]
    assert sum(fp32.bucket_counts) == 3
    assert (fp32.explicit_bounds[0], fp32.explicit_bounds[-1]) == (0.0005, 5.0)
    assert 0 < fp32.min <= fp32.max <= fp32.sum
    errors = {p.attributes["error.type"]: p.value for p in points["vit_edge.errors"]}
    assert errors == {"InputError": 2, "TypeError": 1}


def test_threads_are_counted_right(
    bundle_source: Path, digit_frames: np.ndarray, reader: InMemoryMetricReader
) -> None:
    monitor = DriftMonitor(bundle_source, window=1000, every=1)
    metrics = HealthMetrics(monitor, MeterProvider([reader]))
    with load(bundle_source, metrics) as engine:

        def work() -> None:
            for count in range(1, 9):
                engine(digit_frames[:count])
                list(engine.stream(iter(digit_frames[:2])))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        points = read(reader)
    images = 8 * (36 + 8 * 2)
    assert points["vit_edge.images"][0].value == images
    assert points["vit_edge.call.duration"][0].count == 8 * (8 + 8 * 2)
    assert points["vit_edge.drift.images"][0].value == images


def test_drift_is_what_the_monitor_says(
    bundle_source: Path, digit_frames: np.ndarray, reader: InMemoryMetricReader
) -> None:
    monitor = DriftMonitor(bundle_source, every=1)
    metrics = HealthMetrics(monitor, MeterProvider([reader]))
    assert read(reader) == {}  # nothing ran yet
    with load(bundle_source, metrics) as engine:
        engine(255 - np.repeat(digit_frames, 4, axis=0))
    points, report = read(reader), monitor.report()
    assert report.drift
    for name in ("alarm", "shift", "median"):
        own = {p.attributes["vit_edge.statistic"]: p for p in points[f"vit_edge.drift.{name}"]}
        assert own.keys() == {row.name for row in report.statistics}
        for row in report.statistics:
            point = own[row.name]
            expected = {"alarm": int(row.drifted), "shift": row.shift, "median": row.now.median}
            assert point.value == expected[name]
            assert point.attributes["vit_edge.backend"] == "onnxruntime"
    assert points["vit_edge.drift.images"][0].value == 40
    assert points["vit_edge.drift.verdict"][0].value == 1


def test_outputs_that_are_not_finite_show(
    bundle_source: Path, digit_frames: np.ndarray, reader: InMemoryMetricReader
) -> None:
    """Their statistics are unknown, and none of them drifted."""
    monitor = DriftMonitor(bundle_source, every=1)
    metrics = HealthMetrics(monitor, MeterProvider([reader]))
    with load(bundle_source, metrics) as engine:
        broken = {"logits": engine(digit_frames) * np.float32(np.nan)}
        for _ in range(10):
            metrics.on_call(engine.info, digit_frames, broken, 0.01)
    points = read(reader)
    assert points["vit_edge.drift.verdict"][0].value == 1
    known = {p.attributes["vit_edge.statistic"] for p in points["vit_edge.drift.alarm"]}
    assert "confidence of logits" in known  # of the first call alone


def test_prometheus_scrapes_the_same_numbers(bundle_source: Path, digit_frames: np.ndarray) -> None:
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)])
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        monitor = DriftMonitor(bundle_source, every=1)
        with load(bundle_source, HealthMetrics(monitor, provider)) as engine:
            engine(digit_frames)
            with pytest.raises(InputError):
                engine(digit_frames[0])
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        text = urllib.request.urlopen(address, timeout=10).read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    samples = {
        (s.name, s.labels.get("error_type") or s.labels.get("vit_edge_statistic")): s
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["vit_edge_call_duration_seconds_count", None].value == 1
    images = samples["vit_edge_images_total", None]
    assert images.value == 10
    assert images.labels["vit_edge_backend"] == "onnxruntime"
    assert images.labels["vit_edge_precision"] == "fp32"
    assert samples["vit_edge_errors_total", "InputError"].value == 1
    assert samples["vit_edge_drift_alarm", "brightness"].value == 0
    assert samples["vit_edge_drift_images", None].value == 10
    median = samples["vit_edge_drift_median", "confidence of logits"].value
    assert median == pytest.approx(
        next(r.now.median for r in monitor.report().statistics if r.name == "confidence of logits")
    )


def test_without_opentelemetry_one_line_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['opentelemetry.metrics'] = None\n"
        "from vit_edge.runtime.tools.health import HealthMetrics\n"
        "try:\n    HealthMetrics()\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("BackendError metrics need OpenTelemetry: pip install")
    assert "opentelemetry-api" in done.stdout


def test_the_command_line_imports_no_opentelemetry() -> None:
    code = (
        "import sys\nfrom vit_edge.runtime.tools.cli import build_parser\nbuild_parser()\n"
        "assert not [m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
