"""Health of an engine in use: metrics, errors, and drift of its images without labels."""

from .drift import DriftMonitor, DriftReport
from .judge import StatisticReport, Summary
from .metrics import HealthMetrics

__all__ = ["DriftMonitor", "DriftReport", "HealthMetrics", "StatisticReport", "Summary"]
