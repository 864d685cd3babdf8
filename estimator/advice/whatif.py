"""Policies side by side: what each would free of one snapshot, and what it loses to the ideal.

Every row is the model's own answer, to another question or for contents that are told apart by
domain. What a kernel can be set to is marked; the rest is a thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from estimator.advice.alike import Alike, alike
from estimator.advice.domains import by_family, separated
from estimator.advice.why import Why, why
from estimator.arrays import Ints
from estimator.ksm.as_if import as_if as read_as_if
from estimator.ksm.losses import Losses
from estimator.ksm.policy import AS_IF, Policy, Scope
from estimator.ksm.prediction import Prediction
from estimator.snapshot.changes import with_changes
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot

MAX_PAGE_SHARING = (2, 16, 256, 1024, 100_000)
IDEAL = "every equal frame"
OTHERS = "equal only to pages of another domain"
OTHER = "not zero-filled"


@dataclass(frozen=True)
class WhatIf:
    """Policies side by side.

    ``asked``: the prediction under the policy that was asked for. ``table``: one row per policy:
    name, settable (bool: a kernel can be set so), setting (how; else what is assumed), frames_freed
    (frames; against the memory as it is now, so less than 0 where KSM has merged more already),
    bytes_saved, net_bytes_saved, general_profit (bytes), ksm_rmap_items, scanned_pages
    (what ksmd visits in a full scan), lost_bytes (less than the ideal frees; null for memory that
    is read as if it were other than it is: the ideal is not of that), lost_to (the reason that
    costs most; "" for none). Of the ideal only what it frees is said (the rest is null).
    ``losses``: of ``asked``. ``alike``: what else could be done with what is equal.
    ``merged_now``: KSM has merged pages already.
    """

    asked: Prediction
    table: pd.DataFrame
    losses: Losses
    alike: Alike
    merged_now: bool


def what_if(
    snapshot: Snapshot,
    policy: Policy | None = None,
    *,
    later: Snapshot | None = None,
    labels: Ints | None = None,
    as_if: Sequence[str] = (),
) -> WhatIf:
    """Answer ``policy`` and, from the same snapshot, what differs from it in one thing.

    ``labels``: i64 per row of ``snapshot.processes``, a domain of the user's own. ``as_if``: names
    of ``AS_IF``, a row for each of them, and one for all. Raises as ``predict`` and
    ``ksm.as_if.as_if`` do.
    """
    policy = policy or Policy()
    otherwise = _as_if_rows(snapshot, policy, later, as_if)
    snapshot = with_changes(snapshot, later)
    answer = why(snapshot, policy)
    asked, lost = answer.prediction, answer.losses
    rows = [_row("as asked", "", answer, asked)]
    for name, setting, other in _settings(policy, asked):
        rows.append(_row(name, setting, why(snapshot, other), asked))
    for name, domains in _domains(snapshot, labels):
        apart = separated(snapshot, domains, keep_zero=bool(asked.policy.use_zero_pages))
        rows.append(_thought(name, OTHERS, answer, why(apart, policy)))
    only_zeroes = separated(snapshot, None, keep_zero=True)
    zeroes = replace(policy, use_zero_pages=True)
    rows.append(_thought("zero-filled pages only", OTHER, answer, why(only_zeroes, zeroes)))
    rows += otherwise
    table = pd.DataFrame(rows)
    ideal = round(lost.ideal)
    page = asked.kernel["page_size"]
    head = pd.DataFrame(
        [{"name": IDEAL, "settable": False, "frames_freed": ideal, "bytes_saved": ideal * page}]
    )
    table = pd.concat([head, table], ignore_index=True)
    table["lost_bytes"] = ((ideal - table["frames_freed"]) * page).astype("Int64")
    table.loc[len(table) - len(otherwise) :, "lost_bytes"] = pd.NA
    table[["setting", "lost_to"]] = table[["setting", "lost_to"]].fillna("")
    whole = ["net_bytes_saved", "general_profit", "ksm_rmap_items", "scanned_pages"]
    table = table.astype(dict.fromkeys(whole, "Int64"))
    merged = bool((snapshot.frames["kind"] == FrameKind.KSM).any())
    return WhatIf(asked, table, lost, alike(snapshot, asked), merged)


def _row(
    name: str, setting: str, answer: Why, asked: Prediction | None
) -> dict[str, str | int | bool]:
    """What ``answer`` brings against the memory as it is now, as ``asked`` finds it.

    Where all is unmerged first, the model starts from more frames. None: against the memory that
    ``answer`` itself is of.
    """
    prediction, reasons = answer.prediction, answer.losses.lost
    asked = asked or prediction
    physical, page = prediction.physical, asked.kernel["page_size"]
    freed = asked.physical["frames_before"] - physical["frames_after"]
    overhead = physical["overhead_bytes"] - asked.physical["overhead_now_bytes"]
    return {
        "name": name,
        "settable": True,
        "setting": setting,
        "frames_freed": freed,
        "bytes_saved": freed * page,
        "net_bytes_saved": freed * page - overhead,
        "general_profit": prediction.counters["general_profit"],
        "ksm_rmap_items": prediction.counters["ksm_rmap_items"],
        "scanned_pages": prediction.coverage.candidate_pages,
        "lost_to": str(reasons["reason"].iloc[0]) if len(reasons) else "",
    }


def _thought(name: str, apart: str, asked: Why, answer: Why) -> dict[str, str | int | bool]:
    """What no kernel can be set to. ``apart``: why pages that are equal are not taken for that."""
    lost = answer.losses
    row = _row(name, "", answer, asked.prediction) | {"settable": False}
    most = int(lost.lost["frames"].max()) if len(lost.lost) else 0
    fewer = asked.losses.ideal - lost.ideal
    return row | {"lost_to": apart} if fewer and fewer >= most else row


def _as_if_rows(
    snapshot: Snapshot, policy: Policy, later: Snapshot | None, what: Sequence[str]
) -> list[dict[str, str | int | bool]]:
    """A row for each of ``what``, and for all of them: against that memory as it would be."""
    each = [(name,) for name in AS_IF if name in what]
    rows = []
    for names in [*each, tuple(what)] if len(each) > 1 else each:
        read = read_as_if(snapshot, names)
        read = with_changes(read, read_as_if(later, names) if later else None)
        answer = why(read, policy)
        row = _row("as if " + " ".join(answer.prediction.policy.as_if), "", answer, None)
        rows.append(row | {"settable": False})
    return rows


def _settings(policy: Policy, asked: Prediction) -> list[tuple[str, str, Policy]]:
    """What a kernel can be set to, one thing at a time."""
    zero_pages = not asked.policy.use_zero_pages
    other: Scope = "all" if policy.scope == "enabled" else "enabled"
    found = [
        (
            "all processes opted in" if other == "all" else "as opted in now",
            "--scope " + other,
            replace(policy, scope=other),
        ),
        (
            f"use_zero_pages {'on' if zero_pages else 'off'}",
            f"use_zero_pages={int(zero_pages)}",
            replace(policy, use_zero_pages=zero_pages),
        ),
    ]
    return found + [
        (
            f"max_page_sharing {most:,}",
            f"max_page_sharing={most}",
            replace(policy, max_page_sharing=most),
        )
        for most in MAX_PAGE_SHARING
        if most != asked.policy.max_page_sharing
    ]


def _domains(snapshot: Snapshot, labels: Ints | None) -> list[tuple[str, Ints]]:
    processes = snapshot.processes

    def numbers(of: Callable[[pd.DataFrame], pd.Series[str]]) -> Ints:
        codes: Ints = pd.factorize(of(processes))[0].astype(np.int64)
        return codes

    found = [
        ("only within a user", numbers(lambda table: table["uid"].astype(str))),
        ("only within a cgroup", numbers(lambda table: table["cgroup"])),
        ("only within a service", numbers(lambda table: units_of(table["cgroup"]))),
        ("only within a fork family", by_family(snapshot)),
    ]
    return found if labels is None else [*found, ("only within a label", labels)]
