"""Sums over the fate of every mapping: counters, processes, VMAs, cgroups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Mask, pieces, take
from estimator.ksm.accounting import (
    freed_frames,
    general_profit_bytes,
    physical,
    stable_nodes,
    unmapped_pieces,
)
from estimator.ksm.candidates import sharing_pids
from estimator.ksm.case import Case
from estimator.ksm.caveats import Told, warnings
from estimator.ksm.coverage import coverage_of
from estimator.ksm.fate import Fate
from estimator.ksm.khugepaged import sharing_bounds
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.zero_counters import (
    counted_zero_pages,
    mapped_zero_pages,
    zero_pages_of_nobody,
)
from estimator.snapshot.identity import origin

_SUMS = [
    "ksm_rmap_items",
    "ksm_merging_pages",
    "ksm_zero_pages",
    "pages_unshared",
    "pages_volatile",
    "smaps_ksm_pages",
    "unknown_pages",
]


def summarise(case: Case, policy: Policy, fate: Fate, told: Told) -> Prediction:
    """Put the prediction together."""
    rules, processes = case.rules, case.snapshot.processes
    vmas = _vmas(case, fate)
    per_mm = _processes(case, vmas)
    totals = {name: int(per_mm[name].sum()) for name in _SUMS}
    totals["ksm_zero_pages"] += zero_pages_of_nobody(case)
    shared = int(np.count_nonzero(fate.node))
    nodes, chains, dups = stable_nodes(case, fate)
    sharing = totals["ksm_merging_pages"] - shared
    counters = {
        "pages_shared": shared,
        "pages_sharing": sharing,
        "pages_unshared": totals["pages_unshared"],
        "pages_volatile": totals["pages_volatile"],
        "ksm_zero_pages": totals["ksm_zero_pages"],
        "stable_node_chains": chains,
        "stable_node_dups": dups,
        "ksm_rmap_items": totals["ksm_rmap_items"],
        "general_profit": general_profit_bytes(
            rules, sharing, totals["ksm_zero_pages"], totals["ksm_rmap_items"]
        ),
    }
    unknown = np.flatnonzero(fate.outcome == Outcome.UNKNOWN)
    khugepaged = sharing_bounds(case, fate, sharing)
    unmapped = unmapped_pieces(case)
    freed = freed_frames(case, fate, unmapped)
    compared = told.looks.compared_pages if told.looks else None
    moved = told.looks.moved_frames(freed.frames) if told.looks else None
    coverage = coverage_of(case, unknown, sharing, compared, moved)
    columns = {name: per_mm[name].to_numpy() for name in (*_SUMS, "ksm_process_profit")}
    return Prediction(
        snapshot=case.snapshot,
        policy=policy,
        kernel=dict(case.snapshot.info["kernel"]),
        origin=origin(case.snapshot.info),
        counters=counters,
        physical=physical(
            case, freed.frames, int(unmapped.sum()), totals["ksm_rmap_items"], nodes + chains
        ),
        coverage=coverage,
        scans=fate.scans,
        smart_scan=rules.smart_scan,
        khugepaged=khugepaged,
        warnings=warnings(case, policy, fate, freed, coverage, khugepaged, told),
        processes=per_mm,
        vmas=vmas[case.candidates.mms[processes_of(vmas)]].reset_index(drop=True)
        if len(processes)
        else vmas,
        cgroups=sums_by(per_mm["cgroup"], "cgroup", columns),
        excluded=excluded_vmas(case),
        outcome=fate.outcome,
        stable_node=fate.stable_frame,
        content=case.contents.of_frame,
        freed=freed,
    )


def processes_of(vmas: pd.DataFrame) -> Ints:
    """mm_id per row, as an index."""
    mm: Ints = vmas["mm_id"].to_numpy().astype(np.int64)
    return mm


def maps_ksm_page(case: Case, fate: Fate) -> Mask:
    """Bool per row of ``mappings``: the PTE maps a KSM page at rest, as smaps "KSM:" counts them.

    Besides merged ones these are mappings that never take part but share the frame of a stable
    node, and those of orphans (``ksmd.py``).
    """
    maps: Mask = take(fate.ksm, case.frame_of_row)
    for piece in pieces(len(maps)):
        outcome = fate.outcome[piece]
        maps[piece] &= (outcome != Outcome.ZERO_PAGE) & (outcome != Outcome.SPLIT_AWAY)
    maps[fate.copied] = False
    for piece in pieces(len(maps)):
        maps[piece] |= fate.outcome[piece] == Outcome.MERGED
    return maps


def _vmas(case: Case, fate: Fate) -> pd.DataFrame:
    """One row per VMA of the snapshot, in its order."""
    table, candidates = case.snapshot.vmas, case.candidates
    counts = _per_vma(case, fate.outcome, len(Outcome))
    smaps = _per_vma(case, maps_ksm_page(case, fate).view(np.uint8), 2)[:, 1]
    mm = table["mm_id"].to_numpy()
    rmap_items = [Outcome.UNSHARED, Outcome.VOLATILE, Outcome.MERGED]
    zero_pages = table["ksm_zero_pages"].to_numpy().astype(np.int64) + counts[:, Outcome.ZERO_PAGE]
    return pd.DataFrame(
        {
            "vma_id": table["vma_id"],
            "mm_id": table["mm_id"],
            "pid": case.snapshot.processes["pid"].to_numpy()[mm],
            "start": table["start"],
            "end": table["end"],
            "name": table["name"],
            "ksm_rmap_items": counts[:, rmap_items].sum(axis=1),
            "ksm_merging_pages": counts[:, Outcome.MERGED],
            "ksm_zero_pages": zero_pages if case.rules.counts_zero_pages else 0,
            "pages_unshared": counts[:, Outcome.UNSHARED],
            "pages_volatile": counts[:, Outcome.VOLATILE],
            "smaps_ksm_pages": smaps,
            "split_away_pages": counts[:, Outcome.SPLIT_AWAY],
            "unknown_pages": counts[:, Outcome.UNKNOWN],
            "excluded_by": candidates.excluded_by,
        }
    )


def _per_vma(case: Case, values: npt.NDArray[np.uint8], kinds: int) -> Ints:
    """How often each value occurs in each VMA: i64, VMAs x kinds."""
    starts = case.candidates.vma_starts
    counts = np.zeros((len(starts) - 1, kinds), np.int64)
    for piece in pieces(len(values)):
        first, last = np.searchsorted(starts, (piece.start, piece.stop - 1), side="right") - 1
        ends = np.clip(starts[first : last + 2], piece.start, piece.stop)
        rows = ends[1:] - ends[:-1]
        key = np.repeat(np.arange(len(rows)) * kinds, rows) + values[piece]
        found = np.bincount(key, minlength=len(rows) * kinds)
        counts[first : last + 1] += found.reshape(-1, kinds)
    return counts


def _processes(case: Case, vmas: pd.DataFrame) -> pd.DataFrame:
    rules, processes, mm = case.rules, case.snapshot.processes, processes_of(vmas)
    sums = {
        name: np.bincount(mm, vmas[name].to_numpy(), len(processes)).astype(np.int64)
        for name in _SUMS
    }
    sums["ksm_zero_pages"] += counted_zero_pages(case) - mapped_zero_pages(case)
    profit = (sums["ksm_merging_pages"] + sums["ksm_zero_pages"]) * rules.page_bytes - sums[
        "ksm_rmap_items"
    ] * rules.rmap_item_bytes  # ksm_process_profit() in mm/ksm.c
    table = pd.DataFrame(
        {
            **{name: processes[name] for name in ("mm_id", "pid", "comm", "cgroup", "uid")},
            "sharing_pids": sharing_pids(processes),
            **sums,
            "ksm_process_profit": profit,
        }
    )
    return table[case.candidates.mms].reset_index(drop=True)


def excluded_vmas(case: Case) -> pd.DataFrame:
    """Excluded VMAs of the selected processes by reason: excluded_by, vmas, anonymous_pages."""
    reason = case.candidates.excluded_by
    shut = np.flatnonzero(pd.notna(reason))
    pages = np.diff(case.candidates.vma_starts)[shut]
    columns = {"vmas": np.ones_like(pages), "anonymous_pages": pages}
    return sums_by(pd.Series(reason[shut]), "excluded_by", columns)


def sums_by(keys: pd.Series, name: str, columns: Mapping[str, Ints]) -> pd.DataFrame:
    """The sums of ``columns`` by key, in the order of the keys: a groupby() that costs less.

    Rows without a key are left out.
    """
    number, names = pd.factorize(keys, sort=True)
    sums = {
        column: np.bincount(number + 1, values, len(names) + 1)[1:].astype(np.int64)
        for column, values in columns.items()
    }
    return pd.DataFrame({name: names, **sums})
