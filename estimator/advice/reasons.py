"""Why KSM saves little or nothing here: what holds most of the memory back, biggest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.advice.attribution import page_bytes
from estimator.advice.host import is_virtual_machine
from estimator.advice.schedule import scan_time_now
from estimator.advice.verdict import Savings
from estimator.arrays import Mask, Numbers, count_where, pieces
from estimator.arrays import count as count_each
from estimator.ksm.candidates import NOT_MERGEABLE, NOT_ON_LIST, on_ksmds_list
from estimator.ksm.mergeable import pinned_frames
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, human_bytes, human_seconds, plural, printable

MOST_REASONS = 5
LEAST_SHARE = 0.01
"""Of the anonymous memory; what is less is no reason."""
_DAY_SECONDS = 86_400
_LARGE_BYTES = 64 << 20
_FILE = r"/(?!memfd:|SYSV|dev/shm/|dev/zero|dev/hugepages/|anon_hugepage)"  # fs/proc: show_map_vma
_OFF = {0: "run is 0", 2: "run is 2: it has unmerged all"}  # mm/ksm.c, run_store
_NEVER_MERGES = {
    "VM_SHARED": "is shared memory ({by}); private memory could merge",
    "VM_HUGETLB": "is hugetlb memory ({by}); without it, it could merge",
}
_MADE_SO_BY = {  # in the command lines of QEMU, also in JSON, and cloud-hypervisor
    "VM_SHARED": re.compile(
        r'share=on|"share": ?true|shared=on|memory-backend-(?:memfd|shm|file)|vhost-user-[a-z]+'
    ),
    "VM_HUGETLB": re.compile(
        r'hugetlb=on|"hugetlb": ?true|hugepages=on|mem-path(?:=|": ?"| |\0)[^,"\0 ]+'
    ),
}
_AS_MAPPED = {"VM_SHARED": "MAP_SHARED", "VM_HUGETLB": "MAP_HUGETLB"}
_USUALLY_BY = {
    "VM_SHARED": "memfd, share=on: virtio-fs and vhost-user need it",
    "VM_HUGETLB": "mem-path on hugetlbfs, hugetlb=on",
}


@dataclass(frozen=True)
class Reason:
    """``sentence``: why, how much, and what would change it. ``bytes``: of memory it is about."""

    sentence: str
    bytes: int


def off_now(snapshot: Snapshot, prediction: Prediction, saved: Savings) -> list[str]:
    """A sentence where somebody has opted in and nothing is merged since ksmd does not run."""
    run = snapshot.info["ksm"].get("run")
    asked_of_today = prediction.policy.scope == "enabled" and saved.scanned_pages > 0
    if run not in _OFF or not asked_of_today or saved.merged_now_bytes:
        return []
    opted_in = human_bytes(saved.scanned_pages * page_bytes(snapshot))
    return [
        f"ksmd is off ({_OFF[run]}): nothing of the {opted_in} that is opted in is merged now. "
        "What starts it: echo 1 > /sys/kernel/mm/ksm/run"
    ]


def reasons(snapshot: Snapshot, prediction: Prediction, saved: Savings) -> list[str]:
    """Sentences that say why so little becomes free, biggest first.

    None where much does, and none where KSM has merged already.
    """
    if saved.worth_it or saved.merged_now_bytes:
        return []
    size, copies = page_bytes(snapshot), _copies(prediction)
    found = [
        *_not_opted_in(prediction, size),
        *_machines(snapshot),
        *_opted_in_for_nothing(snapshot),
        *_excluded(prediction, size),
        *_swapped(snapshot, prediction, size),
        *_all_different(prediction, copies, size),
        *_forked(snapshot, prediction, size),
        *_changing(prediction, size),
        *_pinned(snapshot, prediction, copies, size),
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
    mm_id, lengths, flags = _large_excluded(snapshot)
    of_machine = is_virtual_machine(snapshot.processes)[mm_id]
    found = []
    for flag, what in _NEVER_MERGES.items():
        rows = of_machine & (flags == flag)
        if rows.any():
            amount, mms = int(lengths[rows].sum()), np.unique(mm_id[rows])
            machines = plural(len(mms), "virtual machine")
            how = what.format(by=_made_so_by(snapshot, mms, flag))
            found.append(Reason(f"{human_bytes(amount)} mapped by {machines} {how}.", amount))
    return found


def _made_so_by(snapshot: Snapshot, mms: Numbers, flag: str) -> str:
    """The options in the command lines of ``mms`` that make their memory so; else the usual."""
    lines = snapshot.processes["cmdline"].iloc[mms].fillna("")
    options = {found for line in lines for found in _MADE_SO_BY[flag].findall(line)}
    named = ", ".join(sorted(printable(option.replace("\0", " ")) for option in options))
    return named or _USUALLY_BY[flag]


def _opted_in_for_nothing(snapshot: Snapshot) -> list[Reason]:
    """The same of other processes that opted in; they may map the same memory, so of the largest.

    madvise(MADV_MERGEABLE) returns 0 on such memory and leaves no trace (mm/ksm.c, ksm_madvise):
    who opted in with nothing else is not seen.
    """
    processes, vmas = snapshot.processes, snapshot.vmas
    merge_any = processes["merge_any"].to_numpy(np.bool_, na_value=False)
    mms = (on_ksmds_list(snapshot) | merge_any) & ~is_virtual_machine(processes)
    mm_id, lengths, flags = _large_excluded(snapshot)
    no_file = ~vmas["name"].astype(str).str.match(_FILE).to_numpy(np.bool_)
    found = []
    for flag, what in _NEVER_MERGES.items():
        rows = mms[mm_id] & no_file & (flags == flag)
        if rows.any():
            amount = int(np.bincount(mm_id[rows], lengths[rows]).max())
            each = plural(len(np.unique(mm_id[rows])), "process")
            sentence = (
                f"Up to {human_bytes(amount)} of each of {each} that opted in "
                f"{what.format(by=_AS_MAPPED[flag])}. Opting in reported no error all the same."
            )
            found.append(Reason(sentence, amount))
    return found


def _large_excluded(snapshot: Snapshot) -> tuple[Numbers, npt.NDArray[np.uint64], npt.NDArray[Any]]:
    """Of each VMA its mm, its bytes, and the flag that excludes it if it is large, else ""."""
    vmas = snapshot.vmas
    lengths = (vmas["end"] - vmas["start"]).to_numpy()
    flags = vmas["excluded_by"].fillna("").to_numpy(np.str_)
    return vmas["mm_id"].to_numpy(), lengths, np.where(lengths >= _LARGE_BYTES, flags, "")


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


def _all_different(prediction: Prediction, copies: Numbers, size: int) -> list[Reason]:
    content = prediction.content
    single = count_where(len(copies), lambda piece: copies[piece] == 1)
    known = count_where(len(content), lambda piece: content[piece] >= 0)
    share = "All" if single == known else f"{human_bytes(single * size)} of the"
    return [Reason(f"{share} pages have a content that no other page has.", single * size)]


def _copies(prediction: Prediction) -> Numbers:
    """On how many frames each content is (i32 per content); 0 at the end, for what is unknown."""
    content = prediction.content
    contents = int(content.max(initial=-1)) + 1
    return count_each(content, contents + 1, empty=prediction.empty, ignore=-1)


def _forked(snapshot: Snapshot, prediction: Prediction, size: int) -> list[Reason]:
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    kind, outcome = snapshot.frames["kind"].to_numpy(), prediction.outcome
    visited = prediction.empty(len(kind), np.bool_)
    visited[:] = False
    again = 0
    for piece in pieces(len(frame_of_row)):
        frame = frame_of_row[piece][outcome[piece] > Outcome.UNKNOWN]
        frame = frame[kind[frame] != FrameKind.KSM]
        new = np.unique(frame)
        again += len(frame) - int(np.count_nonzero(~visited[new]))
        visited[new] = True
    amount = again * size
    return [Reason(f"{human_bytes(amount)} is shared by fork already, without KSM.", amount)]


def _changing(prediction: Prediction, size: int) -> list[Reason]:
    pages = prediction.coverage.changed_pages
    return [
        Reason(
            f"{count(pages)} of the pages that ksmd would visit keep changing: they never merge.",
            pages * size,
        )
    ]


def _pinned(snapshot: Snapshot, prediction: Prediction, copies: Numbers, size: int) -> list[Reason]:
    """Frames that have equals and stay, for somebody holds them."""
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    staying = prediction.empty(len(snapshot.frames), np.bool_)
    staying[:] = False
    for piece in pieces(len(frame_of_row)):
        rows = prediction.is_scanned(piece) & ~prediction.is_converted(piece)
        staying[frame_of_row[piece][rows]] = True
    content = prediction.content
    awake = snapshot.info.get("damon_awake", 0)
    held = pinned_frames(snapshot.frames, awake, prediction.empty)

    def would_merge(piece: slice) -> Mask:
        return staying[piece] & held[piece] & (copies[content[piece]] > 1)

    amount = count_where(len(content), would_merge) * size
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
