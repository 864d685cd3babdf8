"""A trend in words and tables, and as JSON."""

from __future__ import annotations

from typing import Any

from estimator.fleet.fleet_sections import records, share_words
from estimator.fleet.trend import Trend
from estimator.report.asked import policy_words
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory
from estimator.units import count, human_bytes, human_seconds, percent, plural, printable


def trend_sections(found: Trend) -> list[Section]:
    """How the saving went, then each look, who changed, and the curve of an overcommit."""
    looks = found.looks
    first, last = looks.iloc[0], looks.iloc[-1]
    whose = printable(found.host or "an unnamed host")
    if found.service:
        whose = f"{printable(found.service)} on {whose}"
    seconds = last["collected_seconds"] - first["collected_seconds"]
    title = (
        f"In {plural(len(looks), 'look')} at {whose} over {human_seconds(seconds)} the net saving "
        f"went from {human_bytes(first['net_bytes'])} to {human_bytes(last['net_bytes'])}."
    )
    volatility = found.volatility
    told = "there is none" if volatility is None else f"{percent(volatility, 1)} of its mean"
    gone = found.gone_per_minute
    rate = (
        "How fast contents that merge go away is not known: collect later ones with --like A.ksm."
        if gone is None
        else f"At the most {percent(gone, 1)} of the merged contents went in a minute."
    )
    return [
        Section(title, note=f"Its standard deviation: {told}. {rate}"),
        Section(
            "Looks",
            looks,
            [
                Column("taken", "collected_at"),
                memory("net", "net_bytes"),
                memory("frees", "saved_bytes"),
                memory("anonymous", "anonymous_bytes"),
                Column("read", "read_share", share_words, number=True),
                Column("merged before", "merged_contents", _count_words, number=True, wide=True),
                Column("of them gone", "gone_share", share_words, number=True),
            ],
            limit=50,
        ),
        Section(
            "Who changed",
            found.changes,
            [
                Column("service", "service"),
                Column("net, first", "first_bytes", _bytes_words, number=True),
                Column("net, last", "last_bytes", _bytes_words, number=True),
                memory("change", "change_bytes"),
            ],
            limit=10,
        ),
        Section(
            "If merged pages of the whole host are written",
            found.overcommit,
            [
                Column("of the merged pages", "percent", lambda n: f"{n} %", number=True),
                memory("must be free", "needed_bytes"),
            ],
            note=rate,
        ),
    ]


def asked_of_trend(found: Trend) -> list[str]:
    """What was asked."""
    return [f"Asked: {policy_words(found.policy.to_json(), {})}."]


def _bytes_words(value: float) -> str:
    return human_bytes(value) if value == value else "?"


def _count_words(value: float) -> str:
    return count(value) if value == value else "?"


def trend_json(found: Trend) -> dict[str, Any]:
    """The answer as JSON values; null where it is not known."""
    return {
        "host": found.host,
        "service": found.service,
        "policy": found.policy.to_json(),
        "volatility": found.volatility,
        "gone_per_minute": found.gone_per_minute,
        "looks": records(found.looks),
        "changes": records(found.changes),
        "overcommit": records(found.overcommit),
    }
