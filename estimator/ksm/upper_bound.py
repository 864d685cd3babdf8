"""The most that ksmd could free of a snapshot whose page contents were left out.

Who takes part, which frames they map and who else maps these is known; what is in them is not. Only
a bound follows from that, and no prediction: real memory has many contents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Ints, Mask, count, take
from estimator.ksm.accounting import slab_bytes, still_there, unmapped_pieces
from estimator.ksm.candidates import Candidates, find_candidates, sharing_pids
from estimator.ksm.case import Case
from estimator.ksm.caveats import Told, warnings_without_contents
from estimator.ksm.contents import Contents
from estimator.ksm.coverage import Coverage, coverage_of
from estimator.ksm.frames import FrameFacts, frame_facts, items_of_frames, look_at_frames
from estimator.ksm.policy import Policy
from estimator.ksm.rules import Rules, tunables
from estimator.ksm.seen_nodes import with_seen_nodes
from estimator.ksm.totals import excluded_vmas, sums_by
from estimator.ksm.unmerge import has_to_start_over, unmerged
from estimator.snapshot.flags import Unknown
from estimator.snapshot.identity import origin
from estimator.snapshot.snapshot import Snapshot

_SUMS = [
    "mergeable_vmas",
    "candidate_vmas",
    "candidate_pages",
    "fork_shared_pages",
    "swap_pages",
    "zero_pages",
]


@dataclass(frozen=True)
class Ledger:
    """From what ksmd would visit to what can become free at most; in frames but for the first two.

    ``candidate_pages``: mappings that ksmd would visit. ``further_pages``: mappings, by fork, of a
    frame that another one of them maps: the frame is there once. The rest are the candidates'
    distinct frames. Of these stay: ``ksm_frames`` (KSM's already), ``pinned_frames`` (no item can
    be merged: somebody holds them), ``kept_frames`` (mapped by others too, that take no part).
    ``split_frames``: frames beside the rest that the split of a huge page can give back,
    zero-filled or mapped by nobody. ``not_found_pages``: pages whose page table or process was not
    found, each as if it were a candidate with a frame of its own. ``merged_frames``: of the frames
    that could go, the fewest that stay to hold what merged.
    """

    candidate_pages: int
    further_pages: int
    ksm_frames: int
    pinned_frames: int
    kept_frames: int
    split_frames: int
    not_found_pages: int
    merged_frames: int

    @property
    def frames_freed(self) -> int:
        """The bound, in frames."""
        leaving = self.candidate_pages - self.further_pages
        leaving -= self.ksm_frames + self.pinned_frames + self.kept_frames
        return leaving + self.split_frames + self.not_found_pages - self.merged_frames


@dataclass(frozen=True)
class UpperBound:
    """What is known under one policy where contents are not.

    ``origin``, ``kernel``: as in ``Prediction``. ``frames_before``: frames of anonymous memory,
    pieces of huge pages that nobody maps among them. ``bytes_freed``: the bound.
    ``rmap_items_bytes``: what KSM would need for the records of all candidates.

    ``processes``: one row per selected mm: mm_id, pid, comm, cgroup, uid, sharing_pids (a tuple),
    opted_in (by prctl, or it has a VM_MERGEABLE VMA), mergeable_vmas, candidate_vmas,
    candidate_pages (mappings that ksmd would visit), fork_shared_pages (of these, mappings of a
    frame that is mapped more than once), swap_pages and zero_pages (of candidate VMAs; not visited
    while they are so). ``vmas``: one row per VMA of a selected mm: vma_id, mm_id, pid, start, end,
    name, mergeable, candidate_pages, fork_shared_pages, swap_pages, zero_pages, excluded_by (null:
    a candidate VMA). ``cgroups``: sums of ``processes``. ``excluded``: excluded_by, vmas,
    anonymous_pages.
    """

    policy: Policy
    kernel: dict[str, Any]
    origin: dict[str, Any]
    ledger: Ledger
    coverage: Coverage
    frames_before: int
    bytes_freed: int
    rmap_items_bytes: int
    warnings: list[str]
    processes: pd.DataFrame
    vmas: pd.DataFrame
    cgroups: pd.DataFrame
    excluded: pd.DataFrame

    def _repr_html_(self) -> str:
        """The way to the bound, in a notebook."""
        found = vars(self.ledger) | {"frames_freed, at most": self.ledger.frames_freed}
        return pd.Series(found, name="frames").to_frame().to_html()


def upper_bound(snapshot: Snapshot, policy: Policy | None = None) -> UpperBound:
    """The most that ksmd could free under ``policy``, whatever is in the pages.

    The contents of ``snapshot`` are not looked at, if it has any. Raises UsageError for selectors
    that match nothing, CannotAnswerError for a snapshot that lacks what a rule needs.

    A frame becomes free when all its mappings, system-wide, go to another page. So it counts if
    ksmd visits all of them and can merge one (write_protect_page() in mm/ksm.c: no reference
    besides). All that could go may have one content, and then what merges is held by the fewest
    frames that can; see ``_merged_frames``. A split gives back the pieces of a huge page that
    nobody maps, and since 6.12 the zero-filled ones, whoever maps them.
    """
    ksm = tunables(snapshot.info)
    policy = (policy or Policy()).with_tunables(ksm)
    snapshot = with_seen_nodes(snapshot, merge_across_nodes=bool(ksm["merge_across_nodes"]))
    rules = Rules.of(snapshot.info, policy)
    starts_over = has_to_start_over(snapshot, policy, ksm)
    if starts_over:
        snapshot = unmerged(snapshot)
    candidates = find_candidates(snapshot, policy, rules)
    case = _case(snapshot, candidates, rules)
    coverage = coverage_of(case, candidates.row_numbers(), 0, None, None)
    ledger = _ledger(case, coverage.page_table_missing_pages + coverage.lost_pages)
    vmas = _vmas(case)
    processes = _processes(case, vmas)
    numbers = {name: processes[name].to_numpy() for name in _SUMS}
    records = slab_bytes(coverage.pages, rules.rmap_item_bytes, rules.page_bytes)
    return UpperBound(
        policy=policy,
        kernel=dict(snapshot.info["kernel"]),
        origin=origin(snapshot.info),
        ledger=ledger,
        coverage=coverage,
        frames_before=int(np.count_nonzero(still_there(case))) + int(unmapped_pieces(case).sum()),
        bytes_freed=ledger.frames_freed * rules.page_bytes,
        rmap_items_bytes=records,
        warnings=warnings_without_contents(case, policy, coverage, Told(starts_over=starts_over)),
        processes=processes,
        vmas=vmas[candidates.mms[vmas["mm_id"].to_numpy()]].reset_index(drop=True),
        cgroups=sums_by(processes["cgroup"], "cgroup", numbers),
        excluded=excluded_vmas(case),
    )


def _case(snapshot: Snapshot, candidates: Candidates, rules: Rules) -> Case:
    """The facts of all frames, as if they had been read; and no contents."""
    frames = snapshot.frames
    as_if_read = frames.assign(unknown=np.uint8(Unknown.HASHED))
    read = replace(snapshot, frames=as_if_read)
    items, first = items_of_frames(candidates, len(frames))
    facts = frame_facts(read, candidates, rules, look_at_frames(read), items, first)
    reason = frames["unknown"].to_numpy()
    unread = frames.assign(unknown=np.where(reason == Unknown.HASHED, Unknown.NOT_READ, reason))
    nothing = np.zeros(0, np.int32)
    contents = Contents(np.full(len(frames), -1, np.int32), nothing, np.zeros(1, np.int32), 0)
    return Case(replace(snapshot, frames=unread), rules, candidates, contents, facts)


def _ledger(case: Case, not_found: int) -> Ledger:
    facts = case.facts
    visited = facts.items > 0
    ksm = visited & facts.ksm
    pinned = visited & facts.blocked & ~ksm
    mergeable = visited & ~ksm & ~pinned
    leaving = mergeable & (facts.items >= facts.mapcount)
    folios = _folios_of(facts, mergeable)
    vanishing = np.zeros_like(leaving)
    if case.rules.split_maps_zero_page:
        vanishing = np.append(folios, False)[facts.folio] & ~facts.mlocked & ~facts.pinned
    beside = int(np.count_nonzero(vanishing & ~leaving))
    beside += int(unmapped_pieces(case)[folios].sum())
    nodes = case.snapshot.stable_nodes
    unmapped_nodes = int((nodes["live"].to_numpy() & nodes["frame_id"].isna().to_numpy()).sum())
    hosts = int(np.count_nonzero(mergeable & ~leaving)) + int(np.count_nonzero(facts.ksm))
    return Ledger(
        candidate_pages=int(facts.items.sum()),
        further_pages=int(facts.items.sum()) - int(np.count_nonzero(visited)),
        ksm_frames=int(np.count_nonzero(ksm)),
        pinned_frames=int(np.count_nonzero(pinned)),
        kept_frames=int(np.count_nonzero(mergeable & ~leaving)),
        split_frames=beside,
        not_found_pages=not_found,
        merged_frames=_merged_frames(
            case, leaving & ~vanishing, hosts + unmapped_nodes + not_found
        ),
    )


def _folios_of(facts: FrameFacts, frames: Mask) -> Mask:
    """Bool per large folio: it has one of ``frames``."""
    folios = np.zeros(int(facts.folio.max(initial=-1)) + 1, np.bool_)
    folios[facts.folio[frames & (facts.folio >= 0)]] = True
    return folios


def _merged_frames(case: Case, need_a_node: Mask, hosts: int) -> int:
    """The fewest of the frames that could go that stay, if all pages had one content.

    ``need_a_node``: bool per frame, it goes only if its items merge; the others a split can give
    back. ``hosts``: frames that stay anyway and could be the page of a stable node.

    With use_zero_pages that one content may be zeroes, and none has to stay. Otherwise what merges
    is on stable nodes, and the page of each is a frame. A node takes items until it has
    max_page_sharing (is_page_sharing_candidate() in mm/ksm.c), the item of its own page among
    them; only further mappings of that page, by fork, come on top. So if ``n`` frames have one
    mapping each and ``s`` of the frames stay: at most s + (max_page_sharing - 1) * (s + hosts) of
    the ``n`` have a place.
    """
    if case.rules.use_zero_pages or not need_a_node.any():
        return 0
    most = case.rules.max_page_sharing
    single = int(np.count_nonzero(need_a_node & (case.facts.items == 1)))
    stay = -(-(single - (most - 1) * hosts) // most)
    return max(stay, 0 if hosts else 1)


def _vmas(case: Case) -> pd.DataFrame:
    """One row per VMA of the snapshot, in its order."""
    table, candidates = case.snapshot.vmas, case.candidates
    vma_of_row = case.snapshot.mappings["vma_id"].to_numpy()
    rows = candidates.row_numbers()
    forked = rows[take(case.facts.mapcount > 1, candidates.frame)]

    def per_vma(rows: Any) -> Ints:
        return count(take(vma_of_row, rows), len(table)).astype(np.int64)

    return pd.DataFrame(
        {
            "vma_id": table["vma_id"],
            "mm_id": table["mm_id"],
            "pid": case.snapshot.processes["pid"].to_numpy()[table["mm_id"].to_numpy()],
            "start": table["start"],
            "end": table["end"],
            "name": table["name"],
            "mergeable": table["mergeable"],
            "candidate_pages": per_vma(rows),
            "fork_shared_pages": per_vma(forked),
            "swap_pages": table["swap_pages"].to_numpy().astype(np.int64) * candidates.vmas,
            "zero_pages": table["zero_pages"].to_numpy().astype(np.int64) * candidates.vmas,
            "excluded_by": candidates.excluded_by,
        }
    )


def _processes(case: Case, vmas: pd.DataFrame) -> pd.DataFrame:
    """One row per selected mm."""
    processes, mm = case.snapshot.processes, vmas["mm_id"].to_numpy()
    columns = {name: vmas[name].to_numpy() for name in _SUMS if name in vmas}
    columns |= {"mergeable_vmas": vmas["mergeable"].to_numpy()}
    columns |= {"candidate_vmas": case.candidates.vmas}
    sums = {name: np.bincount(mm, columns[name], len(processes)).astype(np.int64) for name in _SUMS}
    by_prctl = processes["merge_any"].fillna(False).to_numpy(np.bool_)
    table = pd.DataFrame(
        {
            **{name: processes[name] for name in ("mm_id", "pid", "comm", "cgroup", "uid")},
            "sharing_pids": sharing_pids(processes),
            "opted_in": by_prctl | (sums["mergeable_vmas"] > 0),
            **sums,
        }
    )
    return table[case.candidates.mms].reset_index(drop=True)
