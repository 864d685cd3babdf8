"""The answer for a fleet in words and tables, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from estimator.fleet.overcommit import Overcommit
from estimator.fleet.overcommit_section import host_words, overcommit_json, overcommit_section
from estimator.fleet.summary import Summary, reasons
from estimator.report.asked import policy_words
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory, pages
from estimator.units import count, human_bytes, percent, plural, printable, words_between

_SPREAD = {
    "net_bytes": "saving, net",
    "share": "of anonymous memory",
    "first_cores_most": "cores while merging, at most",
    "rest_cores_most": "cores at rest, at most",
}
_SHOWN: dict[str, Callable[[float], str]] = {
    "net_bytes": human_bytes,
    "share": lambda share: percent(share, 1),
}


def fleet_sections(summary: Summary, asked: Overcommit | None = None) -> list[Section]:
    """Coverage and verdict first, then totals, plan, hosts, services, what was left out.

    ``asked``: whether an overcommit is safe, right after the verdict.
    """
    return [
        _verdict(summary),
        *([overcommit_section(asked)] if asked else []),
        _cost(summary),
        _plan(summary),
        _hosts(summary),
        _roles(summary),
        _odd(summary),
        _services(summary),
        _overcommit(summary),
        _left_out(summary),
    ]


def asked_words(summary: Summary) -> list[str]:
    """What was asked."""
    return [f"Asked: {policy_words(summary.policy.to_json(), {})}."]


def _verdict(summary: Summary) -> Section:
    hosts, failed = len(summary.hosts), summary.failed
    read = summary.read_share
    told = "there is nothing to read" if read is None else f"{percent(read, 1)} of their pages read"
    net, anonymous = summary.total("net_bytes"), summary.total("anonymous_bytes")
    title = (
        f"{count(hosts)} of {plural(hosts + failed, 'host')} counted, {told}: KSM would free "
        f"{human_bytes(net)} net, {percent(net, anonymous)} of {human_bytes(anonymous)} of "
        "anonymous memory."
    )
    twice = len(summary.left_out) - failed
    note = f"{plural(twice, 'snapshot')} more of hosts that are counted already." if twice else ""
    return Section(title, note=note)


def _cores(ends: tuple[float, float]) -> str:
    return words_between(ends, lambda cores: f"{cores:.2g}" if cores < 100 else count(cores))


def _cost(summary: Summary) -> Section:
    first, rest = summary.cores("first"), summary.cores("rest")
    return Section(
        "What it costs",
        bullets=[
            f"ksmd takes {_cores(first)} CPU cores of the whole fleet while it merges, "
            f"{_cores(rest)} at rest: {human_bytes(summary.total('scanned_bytes'))} to scan.",
            f"general_profit, as the kernels will claim it: "
            f"{human_bytes(summary.total('general_profit_bytes'))}.",
        ],
    )


def _plan(summary: Summary) -> Section:
    steps = summary.frontier[summary.frontier["gain_bytes"] > 0]
    return Section(
        "What to opt in, best first",
        steps.assign(
            cores=[
                _cores(ends) for ends in zip(steps["cores_least"], steps["cores_most"], strict=True)
            ]
        ),
        [
            Column("service", "service"),
            pages("hosts", "hosts"),
            memory("it adds, net", "gain_net_bytes"),
            memory("net so far", "net_bytes"),
            pages("pages to scan so far", "scanned_pages", wide=True),
            Column("cores so far", "cores", number=False),
        ],
        note="Each line with all lines above it. What saves only together with another service "
        "comes right after it; pages of different hosts never merge.",
    )


def _hosts(summary: Summary) -> Section:
    rows = []
    for row in summary.spread.to_dict("records"):
        show: Callable[[float], str] = _SHOWN.get(row["of"], lambda cores: f"{cores:.2g}")
        known = {q: show(row[q]) if row[q] == row[q] else "?" for q in ("p10", "median", "p90")}
        rows.append({"name": _SPREAD[row["of"]]} | known)
    columns = [Column("of one host", "name"), *(Column(q, q) for q in ("p10", "median", "p90"))]
    return Section("How it is spread over the hosts", pd.DataFrame(rows), columns)


def share_words(value: float) -> str:
    """From 0 to 1, in percent; ? where it is not known."""
    return percent(value, 1) if value == value else "?"


def _roles(summary: Summary) -> Section:
    return Section(
        "Roles",
        summary.roles if summary.hosts["role"].notna().any() else None,
        [
            Column("role", "role"),
            pages("hosts", "hosts"),
            memory("anonymous", "anonymous_bytes"),
            memory("net", "net_bytes"),
            *(Column(q, q, share_words, number=True) for q in ("share", "p10", "median", "p90")),
        ],
        note="" if summary.hosts["role"].notna().any() else "None were given (--labels FILE).",
    )


def _odd(summary: Summary) -> Section:
    return Section(
        "Hosts that differ from their kind",
        summary.odd,
        [
            Column("host", "host", host_words),
            Column("snapshot", "place", wide=True),
            Column("role", "role"),
            Column("saves", "share", share_words, number=True),
            Column("median there", "median", share_words, number=True),
        ],
        limit=10,
        note="" if len(summary.odd) else "None.",
    )


def _services(summary: Summary) -> Section:
    return Section(
        "Services",
        summary.services,
        [
            Column("service", "service"),
            pages("hosts", "hosts"),
            pages("processes", "processes"),
            memory("scanned", "scanned_bytes"),
            memory("frees", "saved_bytes"),
            memory("net", "net_bytes"),
        ],
        total={
            name: summary.services[name].sum()
            for name in ("processes", "scanned_bytes", "saved_bytes", "net_bytes")
        },
        note="With everybody opted in, what is saved together is credited to each in equal parts.",
    )


def _overcommit(summary: Summary) -> Section:
    minute = summary.written_per_minute
    measured = (
        "How fast merged pages are written was not measured on any host: collect with --passes 3."
        if minute is None
        else f"Measured on {plural(summary.measured_hosts, 'host')}: {minute:.2g} % of the merged "
        "pages are written in a minute, at least."
    )
    return Section(
        "If merged pages are written",
        summary.overcommit,
        [
            Column("of the merged pages", "percent", lambda n: f"{n} %", number=True),
            memory("needed on all hosts", "needed_bytes"),
            memory("on half of the hosts up to", "needed_p50_bytes"),
            memory("on the worst host", "needed_max_bytes"),
        ],
        note=f"{measured} So much has to be free on a host, or what was overcommitted is gone.",
    )


def _left_out(summary: Summary) -> Section:
    table = reasons(summary.left_out)
    return Section(
        "Not counted, because",
        table.assign(
            reason=table["reason"].map(printable),
            examples=[", ".join(map(printable, places)) for places in table["examples"]],
        ),
        [
            Column("because", "reason"),
            pages("snapshots", "snapshots"),
            Column("for example", "examples"),
        ],
        note="--json names each of them." if len(table) else "Every snapshot is counted.",
    )


def fleet_json(summary: Summary, asked: Overcommit | None = None) -> dict[str, Any]:
    """The answer as JSON values: bytes and pages exact, shares from 0 to 1, null where unknown."""
    first, rest = summary.cores("first"), summary.cores("rest")
    totals = ("anonymous_bytes", "saved_bytes", "net_bytes", "general_profit_bytes")
    return {
        "policy": summary.policy.to_json(),
        "coverage": {
            "hosts": len(summary.hosts),
            "not_counted": summary.failed,
            "duplicates": len(summary.left_out) - summary.failed,
            "hosts_share": summary.hosts_share,
            "read_share": summary.read_share,
        },
        "totals": {name: summary.total(name) for name in (*totals, "scanned_bytes")},
        "cores": {
            "first_least": first[0],
            "first_most": first[1],
            "rest_least": rest[0],
            "rest_most": rest[1],
        },
        "spread": records(summary.spread),
        "roles": records(summary.roles),
        "odd_hosts": records(summary.odd),
        "services": records(summary.services),
        "frontier": records(summary.frontier),
        "overcommit": {
            "curve": records(summary.overcommit),
            "written_percent_per_minute": summary.written_per_minute,
            "measured_hosts": summary.measured_hosts,
            "asked": overcommit_json(asked) if asked else None,
        },
        "left_out_because": records(reasons(summary.left_out)),
        "left_out": records(summary.left_out),
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON values."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found
