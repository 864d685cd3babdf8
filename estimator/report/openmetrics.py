"""A prediction as OpenMetrics text, for the textfile collector of Prometheus' node_exporter.

All are gauges: a snapshot is one moment. What is not known has no line, never a 0. Names stand
beside ``node_ksmd_*``, which are the kernel's own counters of the same things, in pages.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from estimator.advice.attribution import contributions, contributions_by, page_bytes, scanned_pages
from estimator.ksm.prediction import Prediction
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot
from estimator.units import printable

PREFIX = "ksm_estimator"
OTHERS = "(others)"
_LONGEST = 128
_SERVICES = {
    "saved_bytes": ("service_frames_freed_bytes", "Memory freed, credited to the service."),
    "net_bytes": ("service_net_bytes", "The same less KSM's records of its pages."),
    "scanned_bytes": ("service_scanned_bytes", "Memory of the service that ksmd would scan."),
}


@dataclass
class _Metric:
    name: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)


def open_metrics(snapshot: Snapshot, prediction: Prediction, most_services: int) -> str:
    """The text, with its ``# EOF``; services beyond ``most_services`` are one, "(others)".

    Which of them are shown by name is decided by net saving, largest first, so that a host has at
    most ``most_services`` + 1 series of each metric.
    """
    metrics = [*_whole(snapshot, prediction), *_by_service(snapshot, prediction, most_services)]
    return "\n".join([*(line for each in metrics for line in _lines(each)), "# EOF", ""])


def _whole(snapshot: Snapshot, prediction: Prediction) -> Iterator[_Metric]:
    size, physical = page_bytes(snapshot), prediction.physical
    policy = {
        name: str(int(value) if isinstance(value, bool) else value)  # 0 and 1 as in sysfs
        for name, value in prediction.policy.to_json().items()
        if not isinstance(value, list | tuple)
    }
    yield _Metric("policy", "What was asked: 1.", [(policy, 1)])
    yield from (
        _Metric(name, told, [({}, value)])
        for name, told, value in (
            (
                "frames_freed_bytes",
                "Memory that KSM would free at rest.",
                physical["bytes_saved"],
            ),
            ("net_bytes", "The same less KSM's own records.", physical["net_bytes_saved"]),
            (
                "general_profit_bytes",
                "What general_profit would show.",
                prediction.counters["general_profit"],
            ),
            (
                "anonymous_bytes",
                "Anonymous memory that was found.",
                physical["frames_before"] * size,
            ),
            (
                "scanned_bytes",
                "Memory that a full scan of ksmd would visit.",
                scanned_pages(prediction) * size,
            ),
            *(
                (f"{name}", f"What {name} would show.", prediction.counters[name])
                for name in ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
            ),
        )
    )
    if (share := prediction.coverage.hashed_share) is not None:
        yield _Metric("coverage_ratio", "Pages that were read, of those to read.", [({}, share)])
    if (when := _collected(snapshot)) is not None:
        told = "When the snapshot was taken; time() less this is its age."
        yield _Metric("collected_timestamp_seconds", told, [({}, when)])


def _collected(snapshot: Snapshot) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(snapshot.info["collected_at"])).timestamp()
    except (KeyError, ValueError):
        return None


def _by_service(
    snapshot: Snapshot, prediction: Prediction, most_services: int
) -> Iterator[_Metric]:
    table = contributions(snapshot, prediction)
    table["unit"] = units_of(table["cgroup"])
    size = page_bytes(snapshot)
    services = contributions_by(table, ["unit"])
    services = services.assign(
        unit=services["unit"].map(lambda name: printable(name)[:_LONGEST]),
        saved_bytes=services["saved_pages"] * size,
        scanned_bytes=services["scanned_pages"] * size,
    ).sort_values("net_bytes", ascending=False, kind="stable")
    named = services["unit"].drop_duplicates().head(most_services)
    services["unit"] = services["unit"].where(services["unit"].isin(named), OTHERS)
    sums: pd.DataFrame = services.groupby("unit", sort=False)[[*_SERVICES]].sum()
    for column, (name, told) in _SERVICES.items():
        samples = [({"service": str(unit)}, float(n)) for unit, n in sums[column].items()]
        yield _Metric(name, told, samples)


def _lines(metric: _Metric) -> Iterator[str]:
    name = f"{PREFIX}_{metric.name}"
    yield f"# TYPE {name} gauge"
    for unit in ("bytes", "seconds", "ratio"):
        if name.endswith(f"_{unit}"):
            yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {metric.help}"
    for labels, value in metric.samples:
        inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
