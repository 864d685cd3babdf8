"""Whether an overcommit is safe, in one sentence and a table, and as JSON."""

from __future__ import annotations

import json
from typing import Any

from estimator.fleet.overcommit import SAFE, UNKNOWN, UNSAFE, Overcommit
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column
from estimator.units import count, human_bytes, percent, plural, printable

_WORST = 10


def overcommit_section(asked: Overcommit) -> Section:
    """The verdict as title, then the hosts with least left over."""
    safe, unsafe, unknown = (asked.count(verdict) for verdict in (SAFE, UNSAFE, UNKNOWN))
    said = {
        SAFE: "is safe",
        UNSAFE: "is not safe",
        UNKNOWN: "is not known to be safe",
    }[asked.verdict]
    written = (
        "as much of what merged is written within a minute as was measured"
        if asked.written_share is None
        else f"{percent(asked.written_share, 1)} of what merged is written within a minute"
    )
    title = (
        f"An overcommit of {asked.ratio:g} {said} if {written}: safe on {plural(safe, 'host')}, "
        f"not safe on {count(unsafe)}, unknown on {count(unknown)}."
    )
    most = asked.safe_ratio
    note = (
        "Left: anonymous memory divided by the ratio, less what is in use at rest. Needed: "
        "at most, for the copies of pages written by chance. "
    )
    if most is not None:
        note += f"Up to {_ratio(most)} is safe on every host."
    elif unknown:
        note += "Measure writes with collect --passes 3, or say how many to expect: --written 20%."
    return Section(
        title,
        asked.hosts,
        [
            Column("host", "host", host_words),
            Column("it is", "verdict"),
            Column("left at rest", "left_bytes", _bytes, number=True),
            Column("written", "written_share", _share, number=True),
            Column("needed", "needed_bytes", _bytes, number=True),
            Column("safe up to", "safe_ratio", _ratio, number=True),
        ],
        limit=_WORST,
        note=note.strip(),
    )


def host_words(host: object) -> str:
    """The name of a host of a table; unnamed where there is none (None, NaN)."""
    return printable(host) if isinstance(host, str) and host else "(unnamed)"


def _bytes(value: float) -> str:
    return human_bytes(value) if value == value else "?"


def _share(value: float) -> str:
    return percent(value, 1) if value == value else "?"


def _ratio(value: float) -> str:
    return f"{int(100 * value) / 100:.2f}" if value == value else "?"  # never rounded up


def overcommit_json(asked: Overcommit) -> dict[str, Any]:
    """As JSON values; null where unknown."""
    worst = asked.hosts.head(_WORST).to_json(orient="records", double_precision=15)
    return {
        "ratio": asked.ratio,
        "written_share": asked.written_share,
        "verdict": asked.verdict,
        "safe_hosts": asked.count(SAFE),
        "unsafe_hosts": asked.count(UNSAFE),
        "unknown_hosts": asked.count(UNKNOWN),
        "safe_ratio": asked.safe_ratio,
        "worst": json.loads(worst),
    }
