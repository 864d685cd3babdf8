"""Why KSM saves little or nothing here: what holds most of the memory back, biggest first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.attribution import page_bytes
from estimator.advice.host import is_virtual_machine
from estimator.advice.schedule import scan_time_now
from estimator.advice.verdict import Savings
from estimator.ksm.candidates import NOT_MERGEABLE, NOT_ON_LIST
from estimator.ksm.mergeable import pinned_frames
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, human_bytes, human_seconds, plural

MOST_REASONS = 5
LEAST_SHARE = 0.01
"""Of the anonymous memory; what is less is no reason."""
_DAY_SECONDS = 86_400
_SHARED_BY = {
    "VM_SHARED": "is shared memory (memfd, share=on: virtio-fs and vhost-user need it); private "
    "memory could merge",
    "VM_HUGETLB": "is hugetlb memory; without it, it could merge",
}


@dataclass(frozen=True)
class Reason:
    """``sentence``: why, how much, and what would change it. ``bytes``: of memory it is about."""

    sentence: str
    bytes: int


def reasons(snapshot: Snapshot, prediction: Prediction, saved: Savings) -> list[str]:
    """Sentences that say why so little becomes free, biggest first.

    None where much does, and none where KSM has merged already.
    """
    if saved.worth_it or saved.merged_now_bytes:
        return []
    size = page_bytes(snapshot)
    found = [
        *_not_opted_in(prediction, size),
        *_machines(snapshot),
        *_excluded(prediction, size),
        *_swapped(snapshot, prediction, size),
        *_all_different(prediction, size),
        *_forked(snapshot, prediction, size),
        *_changing(prediction, size),
        *_pinned(snapshot, prediction, size),
    ]
    least = max(1, LEAST_SHARE * saved.anonymous_bytes)
    found = sorted((r for r in found if r.bytes >= least), key=lambda r: -r.bytes)[:MOST_REASONS]
    return [reason.sentence for reason in found] + _slow(snapshot, prediction)


def _not_opted_in(prediction: Prediction, size: int) -> list[Reason]:
    table = prediction.excluded
    out = table[table["excluded_by"].isin([NOT_MERGEABLE, NOT_ON_LIST])]
    amount = int(out["anonymous_pages"].sum()) * size
    if not amount:
        return []
    opted_in = int((prediction.processes["ksm_rmap_items"] > 0).sum())
    who = f"Only {plural(opted_in, 'process')} has opted in" if opted_in else "Nobody has opted in"
    if opted_in > 1:
        who = f"Only {plural(opted_in, 'process')} have opted in"
    return [
        Reason(
            f"{who}: {human_bytes(amount)} of anonymous memory is in VMAs that are not opted in. "
            "--scope all says what opting in would save, advise what to type.",
            amount,
        )
    ]


def _machines(snapshot: Snapshot) -> list[Reason]:
    """Memory of virtual machines of a kind that never merges; as much as is mapped."""
    vmas = snapshot.vmas
    of_machine = is_virtual_machine(snapshot.processes)[vmas["mm_id"].to_numpy()]
    lengths = (vmas["end"] - vmas["start"]).to_numpy()
    large = lengths >= np.uint64(64 << 20)
    found = []
    for flag, what in _SHARED_BY.items():
        rows = of_machine & large & (vmas["excluded_by"] == flag).fillna(False).to_numpy(np.bool_)
        if rows.any():
            amount = int(lengths[rows].sum())
            machines = plural(vmas["mm_id"][rows].nunique(), "virtual machine")
            found.append(Reason(f"{human_bytes(amount)} mapped by {machines} {what}.", amount))
    return found


def _excluded(prediction: Prediction, size: int) -> list[Reason]:
    """Anonymous memory in VMAs that can never take part."""
    table = prediction.excluded
    table = table[~table["excluded_by"].isin([NOT_MERGEABLE, NOT_ON_LIST])]
    amounts = table["anonymous_pages"].to_numpy() * size
    return [
        Reason(f"{human_bytes(amount)} is in VMAs that never take part: {why}.", int(amount))
        for why, amount in zip(table["excluded_by"], amounts.tolist(), strict=True)
    ]


def _swapped(snapshot: Snapshot, prediction: Prediction, size: int) -> list[Reason]:
    taking_part = prediction.vmas.loc[prediction.vmas["excluded_by"].isna(), "vma_id"]
    amount = int(snapshot.vmas["swap_pages"].iloc[taking_part].sum()) * size
    return [Reason(f"{human_bytes(amount)} is swapped out: ksmd does not read it in.", amount)]


def _all_different(prediction: Prediction, size: int) -> list[Reason]:
    content = prediction.content
    known = content[content >= 0]
    single = int(np.count_nonzero(np.bincount(known) == 1)) if len(known) else 0
    share = "All" if single == len(known) else f"{human_bytes(single * size)} of the"
    return [Reason(f"{share} pages have a content that no other page has.", single * size)]


def _forked(snapshot: Snapshot, prediction: Prediction, size: int) -> list[Reason]:
    frame = snapshot.mappings["frame_id"].to_numpy()[prediction.scanned]
    merged = (snapshot.frames["kind"] == FrameKind.KSM).to_numpy()
    visited = np.bincount(frame[~merged[frame]])
    amount = int((visited - (visited > 0)).sum()) * size
    return [Reason(f"{human_bytes(amount)} is shared by fork already, without KSM.", amount)]


def _changing(prediction: Prediction, size: int) -> list[Reason]:
    pages = prediction.coverage.changed_pages
    return [
        Reason(
            f"{count(pages)} of the pages that ksmd would visit keep changing: they never merge.",
            pages * size,
        )
    ]


def _pinned(snapshot: Snapshot, prediction: Prediction, size: int) -> list[Reason]:
    """Frames that have equals and stay, for somebody holds them."""
    staying = prediction.scanned & ~prediction.converted
    frames = np.unique(snapshot.mappings["frame_id"].to_numpy()[staying])
    content = prediction.content
    copies = np.append(np.bincount(content[content >= 0]), 0)  # the last: of what is unknown
    held = pinned_frames(snapshot.frames, snapshot.info.get("damon_awake", 0))
    amount = int(np.count_nonzero(held[frames] & (copies[content[frames]] > 1))) * size
    return [
        Reason(
            f"{human_bytes(amount)} is equal to other memory, but pinned, as by VFIO, RDMA or "
            "io_uring: it merges only once it is released.",
            amount,
        )
    ]


def _slow(snapshot: Snapshot, prediction: Prediction) -> list[str]:
    scan = scan_time_now(snapshot, prediction.counters["ksm_rmap_items"])
    if scan is None or scan.seconds < _DAY_SECONDS:
        return []
    return [
        f"With pages_to_scan {scan.pages_to_scan} and sleep_millisecs {scan.sleep_millisecs} one "
        f"full scan takes {human_seconds(scan.seconds)} or more: advise has other settings."
    ]
