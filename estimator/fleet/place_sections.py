"""A placement in words and tables, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from estimator.fleet.place import Proposal, Site
from estimator.fleet.sketch import Sketch, shared_pages, similarity
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory, pages
from estimator.units import human_bytes, percent, plural

_MOST_PAIRS = 200


def place_sections(
    units: Sequence[Sketch], hosts: Sequence[str], site: Site, found: Proposal
) -> list[Section]:
    """The verdict, what is shared inside and between, what moves, and who is alike."""
    answer = place_json(units, hosts, site, found)
    now, then, most = (answer[f"between_{name}_bytes"] for name in ("now", "proposed", "at_most"))
    title = (
        f"Placed anew, {plural(len(units), 'unit')} on {plural(site.hosts, 'host')} would share "
        f"{human_bytes(then)} between them, {human_bytes(then - now)} more than now."
    )
    proof = (
        "none can share more" if found.proven else f"none can share more than {human_bytes(most)}"
    )
    note = f"Found by {found.solver}; by the sketches, {proof}."
    if not site.allowed(site.present):
        note += " The present placement breaks the limits that were named."
    inside = answer["inside_bytes"]
    whole = inside + then
    rows = pd.DataFrame(
        [
            ("inside a unit, wherever it stands", inside, inside, percent(inside, whole)),
            ("between units of one host", now, then, percent(then, whole)),
        ],
        columns=["what", "now", "proposed", "share"],
    )
    moves = pd.DataFrame(answer["moves"], columns=["unit", "memory_bytes", "from", "to"])
    return [
        Section(title, note=note),
        Section(
            "What is shared",
            rows,
            [
                Column("sharing", "what"),
                memory("now", "now"),
                memory("proposed", "proposed"),
                Column("of all then", "share", number=True),
            ],
        ),
        Section(
            "What moves",
            moves,
            [
                Column("unit", "unit"),
                memory("memory", "memory_bytes"),
                Column("from", "from"),
                Column("to", "to"),
            ],
            note="" if len(moves) else "Nothing.",
        ),
        Section(
            "Units most alike",
            pd.DataFrame(answer["pairs"], columns=["one", "other", "similarity", "shared_pages"]),
            [
                Column("one", "one"),
                Column("other", "other"),
                Column("alike", "similarity", lambda share: percent(share, 1), number=True),
                pages("contents in common", "shared_pages"),
            ],
            limit=10,
        ),
    ]


def place_json(
    units: Sequence[Sketch], hosts: Sequence[str], site: Site, found: Proposal
) -> dict[str, Any]:
    """The answer as JSON values; memory in bytes."""
    size = units[0].page_bytes
    names = [f"{one.unit} of {one.host}" for one in units]
    moves = [
        {
            "unit": names[unit],
            "memory_bytes": units[unit].memory_pages * size,
            "from": hosts[site.present[unit]],
            "to": hosts[host],
        }
        for unit, host in enumerate(found.placement.tolist())
        if host != site.present[unit]
    ]
    return {
        "inside_bytes": sum(one.self_sharing_pages for one in units) * size,
        "between_now_bytes": round(site.shared_pages(site.present) * size),
        "between_proposed_bytes": round(found.shared_pages * size),
        "between_at_most_bytes": round(found.at_most_pages * size),
        "present_allowed": site.allowed(site.present),
        "solver": found.solver,
        "proven": found.proven,
        "placement": [
            {"unit": one.unit, "of": one.host, "host": hosts[host]}
            for one, host in zip(units, found.placement.tolist(), strict=True)
        ],
        "moves": moves,
        "pairs": _pairs(units, names),
    }


def _pairs(units: Sequence[Sketch], names: list[str]) -> list[dict[str, Any]]:
    """The most alike, at most 200; of many units each with the one before it in size alone."""
    rows = [
        (similarity(one, units[other]), shared_pages(one, units[other]), names[place], names[other])
        for place, one in enumerate(units)
        for other in (
            range(place) if len(units) <= _MOST_PAIRS else range(max(place - 1, 0), place)
        )
    ]
    rows.sort(key=lambda row: -row[1])
    return [
        {"one": one, "other": other, "similarity": alike, "shared_pages": round(shared)}
        for alike, shared, one, other in rows[:_MOST_PAIRS]
    ]
