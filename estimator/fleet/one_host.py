"""What one snapshot says, as rows of the fleet's tables. Snapshot in, rows out."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from estimator.advice.attribution import contributions, contributions_by, page_bytes, scanned_pages
from estimator.advice.break_ups import BreakUps, break_ups
from estimator.advice.cost_terms import merging_work, resting_work
from estimator.advice.page_cost import page_cost
from estimator.advice.patterns import patterns
from estimator.advice.schedule import pages_at_rest
from estimator.fleet.families import families
from estimator.fleet.kinds import By, kind_of
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.identity import Identity
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot

WRITTEN_PERCENT = (1, 2, 5, 10, 20, 30, 50, 75, 100)
"""Of the merged pages: where the curve of an overcommit has its points."""


@dataclass(frozen=True)
class Question:
    """What is asked of every snapshot. ``scan_seconds``: the time that a full scan shall take."""

    policy: Policy
    by: By
    scan_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        policy = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.policy).items()}
        return {"policy": policy, "by": self.by, "scan_seconds": self.scan_seconds}


@dataclass(frozen=True)
class HostRows:
    """One snapshot's rows.

    ``host``: one row of ``results.HOSTS``, without the columns that say where it was found.
    ``services``: service, processes, scanned_pages, scanned_bytes, records_bytes, ksm_rmap_items,
    ksm_merging_pages, ksm_zero_pages, unknown_pages, saved_bytes (f64), net_bytes (f64).
    ``families``: see ``families.families``.
    """

    host: dict[str, Any]
    services: pd.DataFrame
    families: pd.DataFrame


def study(snapshot: Snapshot, question: Question) -> HostRows:
    """All that the fleet's answer needs of ``snapshot``; raises as ``predict``."""
    prediction = predict(snapshot, question.policy)
    size = page_bytes(snapshot)
    table = contributions(snapshot, prediction)
    table["service"] = services_of(table, question.by)
    services = contributions_by(table, ["service"])
    services["saved_bytes"] = services.pop("saved_pages") * size
    services["scanned_bytes"] = services["scanned_pages"] * size
    record = int(snapshot.info["sizes"]["ksm_rmap_item"])
    services["records_bytes"] = services["scanned_pages"] * record
    names = services["service"].tolist()
    piece_of_vma = np.full(len(snapshot.vmas), -1, np.int64)
    number = {name: place for place, name in enumerate(names)}
    piece_of_vma[table["vma_id"].to_numpy()] = [number[name] for name in table["service"]]
    found = patterns(snapshot, prediction, piece_of_vma)
    host = _host_row(snapshot, prediction, question)
    return HostRows(host, services, families(found, names, size))


def services_of(table: pd.DataFrame, by: By) -> list[str]:
    """What the rows of ``table`` (comm, cgroup) count as, a str each."""
    if by == "comm":
        return table["comm"].astype(str).tolist()
    names = units_of(table["cgroup"]) if by == "unit" else table["cgroup"].astype(str)
    kinds = {name: kind_of(name) for name in names.unique()}
    return [kinds[name] for name in names]


def about(info: Mapping[str, Any]) -> dict[str, Any]:
    """Of which system and when: what tells pictures of one system apart from two systems."""
    identity = Identity.of(info)
    when = info.get("collected_at")
    return {
        "host": identity.host,
        "boot_id": identity.boot_id,
        "machine_id": identity.machine_id,
        "release": identity.release,
        "collected_at": when,
        "collected_seconds": _seconds(when),
    }


def _seconds(when: object) -> float | None:
    """Since 1970; None where a snapshot does not say when it was taken."""
    try:
        return datetime.datetime.fromisoformat(str(when)).timestamp()
    except ValueError:
        return None


def _host_row(snapshot: Snapshot, prediction: Prediction, question: Question) -> dict[str, Any]:
    size, physical = page_bytes(snapshot), prediction.physical
    coverage, counters = prediction.coverage, prediction.counters
    pages = scanned_pages(prediction)
    costs = page_cost(snapshot)
    merged = counters["pages_shared"] + counters["pages_sharing"]
    rest = pages_at_rest(merged, pages - merged, prediction.smart_scan)
    first, resting = merging_work(prediction), resting_work(prediction, rest)
    writes = break_ups(prediction)
    changed = coverage.changed_pages if coverage.compared_pages else None
    return {
        "page_bytes": size,
        "processes": len(prediction.processes),
        "anonymous_bytes": physical["frames_before"] * size,
        "saved_bytes": physical["bytes_saved"],
        "net_bytes": physical["net_bytes_saved"],
        "general_profit_bytes": counters["general_profit"],
        "pages_shared": counters["pages_shared"],
        "pages_sharing": counters["pages_sharing"],
        "read_pages": coverage.hashed_pages,
        "candidate_pages": coverage.pages,
        "changed_pages": changed,
        "scanned_pages": pages,
        "scanned_bytes": pages * size,
        "first_cores_least": pages * costs.least.in_scan(first).seconds / question.scan_seconds,
        "first_cores_most": pages * costs.most.in_scan(first).seconds / question.scan_seconds,
        "rest_cores_least": rest * costs.least.in_scan(resting).seconds / question.scan_seconds,
        "rest_cores_most": rest * costs.most.in_scan(resting).seconds / question.scan_seconds,
        "merged_pages": int(np.count_nonzero(prediction.converted)),
        "written_per_second": None if writes is None else writes.per_second,
        "written_share": None if writes is None else written_in_a_minute(writes),
        "needed_bytes": [round(pages * size) for pages in needed_pages(prediction)],
    }


def written_in_a_minute(writes: BreakUps) -> float | None:
    """At most that share of the merged pages, if it goes on as it was seen; None: none merged.

    Pages that are written in a time grow slower than the time, since some are written again: in a
    longer time there are as many at least, and what a shorter time had is counted in proportion.
    """
    if not writes.merged_pages:
        return None
    return min(1.0, writes.written_pages / writes.merged_pages * max(1.0, 60 / writes.seconds))


def needed_pages(prediction: Prediction) -> list[float]:
    """Frames that must be free if so many percent of the merged pages are written, by chance.

    One per ``WRITTEN_PERCENT``. Each written mapping of a KSM page or of the zero page gets a frame
    of its own (do_wp_page() in mm/memory.c); a KSM page of n mappings goes back once all n are
    written, with a chance of the share to the power of n. The last to write may reuse nothing: KSM
    pages are never written in place.
    """
    merged = prediction.stable_node[prediction.outcome == Outcome.MERGED]
    mappings = np.bincount(merged) if len(merged) else np.zeros(0, np.int64)
    sizes, nodes = np.unique(mappings[mappings > 0], return_counts=True)
    zero = np.count_nonzero(prediction.outcome == Outcome.ZERO_PAGE)
    shares = np.array(WRITTEN_PERCENT) / 100
    copies = (int((sizes * nodes).sum()) + int(zero)) * shares
    returned = (nodes * shares[:, None] ** sizes).sum(axis=1)
    return [float(pages) for pages in copies - returned]


def picture_id(info_text: bytes) -> str:
    """Equal for two copies of one snapshot: a digest of its snapshot.json."""
    return hashlib.sha256(info_text).hexdigest()[:32]
