"""What a parser of OpenMetrics finds in our metrics."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Value by name and service ("" without one)."""
    return {
        (sample.name.removeprefix("ksm_estimator_"), sample.labels.get("service", "")): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
