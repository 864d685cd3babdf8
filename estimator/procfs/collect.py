"""A snapshot of this machine from /proc alone: no /proc/kcore, no symbols, no drgn."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from estimator._version import __version__
from estimator.arrays import Columns, Mask, of_rows
from estimator.collect.budget import refuse_beyond
from estimator.collect.by_pfn import ByPfn
from estimator.collect.further_hashes import Areas, Further, Wanted
from estimator.collect.mappings import Mapped, distinct_of
from estimator.collect.seed import about_hash, random_seed
from estimator.collect.settle import settle
from estimator.collect.tables import Table, leave_out_unmapped, make_tables, other_tables
from estimator.packed import Packed, side_by_side
from estimator.procfs.ksm_counters import ksmd_cpu_seconds, read_identity
from estimator.procfs.ksm_settings import read_settings, thp_enabled, thp_orders
from estimator.procfs.merged_frames import ksm_flag_holds, mark_ksm
from estimator.procfs.page_contents import Places, forget_what_moved, look_at, workers_here
from estimator.procfs.page_flags import zero_page_tagged
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.pagemap import PageMaps
from estimator.procfs.processes import (
    PROC,
    can_compare,
    damon_runs,
    is_listed,
    numbered,
    process_columns,
    read_processes,
    still_there,
    unreadable,
)
from estimator.procfs.rights import part_of_host, require_memory, require_rights
from estimator.procfs.running_kernel import RunningKernel, features, struct_sizes, upstream_release
from estimator.procfs.vmas import listed_first, read_vmas, with_others
from estimator.snapshot.flags import UNKNOWN_NODE
from estimator.snapshot.format import CONTENTS, FORMAT_VERSION
from estimator.snapshot.gathered import Gathered

if TYPE_CHECKING:
    from estimator.snapshot.snapshot import Snapshot

_NOT_KNOWN = {
    "processes.scan_order": "assumed from start times: no file says the order of ksmd's list; null "
    "where nothing says whether the process is on it (before 6.16, without a mergeable VMA)",
    "processes.merge_any": "null before 6.16",
    "vmas.has_anon_vma": "taken from the anonymous and swapped pages",
    "vmas.ksm_zero_pages": "counted as zero_pages; per process in ksm_zero_pages",
    "vmas.nonpresent_pages": "counted as swap_pages",
    "vmas.excluded_by": "DAX is not seen",
    "mappings.flags": "WRITABLE, DIRTY and MERGED are not set; PROT_NONE only by mprotect()",
    "frames.flags": "PINNED and ANON_EXCLUSIVE are not set",
    "frames.refcount": "-1",
    "frames.batch_references": "null",
    "frames.folio_mapcount": "-1 for large folios",
    "stable_nodes": "none: where KSM has merged already is only seen as the kind KSM of frames",
    "features": "by the kernel's release, where nothing else tells: features_by_release",
}
_NO_NODES: Columns = {
    "node_id": np.empty(0, np.uint32),
    "chain_id": np.empty(0, np.int32),
    "pfn": np.empty(0, np.uint64),
    "frame_id": np.empty(0, np.uint32),
    "node": np.empty(0, np.uint16),
    "live": np.empty(0, np.bool_),
}
_NO_ITEMS: Columns = {
    "node_id": np.empty(0, np.uint32),
    "mm_id": np.empty(0, np.uint32),
    "address": np.empty(0, np.uint64),
    "age": np.empty(0, np.uint8),
    "checksum": np.empty(0, np.uint32),
}


def collect_procfs(
    *,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Callable[[str, int, int], None],
    pace: Callable[[int], None],
    workers: int | None = None,
    max_memory_bytes: int | None = None,
) -> Snapshot:
    """What ``gather_procfs`` finds, with its arguments and errors, as DataFrames."""
    return gather_procfs(
        without_contents=without_contents,
        contents=contents,
        seed=seed,
        wanted=wanted,
        progress=progress,
        pace=pace,
        workers=workers,
        max_memory_bytes=max_memory_bytes,
    ).snapshot()


def gather_procfs(
    *,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Callable[[str, int, int], None],
    pace: Callable[[int], None],
    workers: int | None = None,
    max_memory_bytes: int | None = None,
    answers: int = 0,
) -> Gathered:
    """Everything /proc says of this machine; what it doesn't is listed in ``info["not_known"]``.

    ``pace`` is told how many bytes are read, and may wait. ``workers``: how many processes, or
    threads, read; without it two, or one where we may use one core. Without ``seed`` the hashes
    have a new one. ``wanted``: further hashes. ``without_contents``: no page of a process is read;
    what is in the frames is unknown. ``contents``: of which memory, one of ``CONTENTS``.
    ``answers``: bytes of a mapping that a prediction takes afterwards, asked for too; 0: none
    follows.
    Raises TargetError without the right to see PFNs, CannotAnswerError if this kernel has no KSM.
    """
    require_rights()
    started = datetime.datetime.now(datetime.UTC)
    taken_at_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)  # as in /proc/uptime
    seed = random_seed() if seed is None else seed
    workers = workers or workers_here()
    wanted = wanted or Wanted()
    progress("processes", 0, 1)
    processes, lost = read_processes()
    vmas, smaps, known = read_vmas(processes, workers)
    if not known.any():
        require_memory(processes)
    mergeable = set(vmas["mm_id"][vmas["mergeable"]].tolist())
    on_list = [is_listed(p, mergeable=n in mergeable) for n, p in enumerate(processes)]
    listed = np.array([answer is True for answer in on_list], np.bool_)
    said = np.array([answer is not None for answer in on_list], np.bool_)
    order, vmas, smaps = listed_first(listed, vmas, smaps)
    processes = [processes[number] for number in order]
    listed, said, known = listed[order], said[order], known[order]
    others, other_pages = with_others(vmas, smaps, contents)
    mapped_pages = int(smaps["Anonymous"].sum()) + other_pages
    refuse_beyond(max_memory_bytes, mapped_pages, running=True, answers=answers)
    areas = Areas(vmas["mm_id"], vmas["start"], vmas["end"])
    further = Further(wanted, seed, areas, PAGE_BYTES) if wanted != Wanted() else None
    maps = PageMaps(processes, vmas, smaps, others, workers)
    kernel = RunningKernel()
    latest: list[Mapped] = []
    looks: list[Places] = []

    def walk() -> Mapped:
        mapped = maps.walk(lambda done: progress("page tables", done, len(processes)))
        latest[:] = [mapped]
        return mapped

    def look(pfns: Packed) -> Table:
        mapped = latest[0]
        facts, places = look_at(
            pfns,
            mapped,
            maps.shared(),
            vmas,
            processes,
            seed,
            further,
            without_contents,
            contents,
            progress,
            pace,
            workers,
            lambda: features(kernel, upstream_release()),  # it keeps what it reads
        )
        looks.append(places)
        return facts

    mapped = walk()
    pfns = distinct_of(mapped.pfn)
    mapped, pfns, facts, lost_pages = settle(mapped, pfns, look(pfns), walk, look)
    latest.clear()
    forget_what_moved(pfns, facts, mapped, looks)
    looks.clear()
    mapped = _without_zero_page(mapped, pfns, facts.pop("zero_page"))
    not_known, perhaps_ksm = _NOT_KNOWN, 0
    if not ksm_flag_holds():
        perhaps_ksm = mark_ksm(facts, pfns, mapped, vmas["start"], smaps)
    if perhaps_ksm:
        not_known = _NOT_KNOWN | {"frames.kind": "KSM not set where smaps leaves it open"}
    anonymous = vmas["has_anon_vma"]
    table = process_columns(processes)
    there = known & ~maps.gone & still_there(processes)  # after all that was read by pid
    mapped = mapped.of_vmas(there[vmas["mm_id"]])
    names, pages = unreadable(processes, there)
    table = numbered(table, there, listed, said)
    vmas = _renumbered(vmas, there)
    leave_out_unmapped(mapped, pfns, facts)
    tables = None
    if contents != CONTENTS[0]:
        tables = other_tables(mapped, pfns, facts, seed, PAGE_BYTES)
    mappings, frames = make_tables(vmas, mapped, pfns, facts, seed, PAGE_BYTES)
    if any((nodes == UNKNOWN_NODE).any() for nodes in frames["node"].pieces()):
        not_known = not_known | {"frames.node": "65535 where several nodes may have the frame"}
    if not can_compare(os.getpid()):
        not_known = not_known | {
            "processes.sharing_pids": "kcmp(2) is not to be had: each pid counts as an mm"
        }
    sizes, assumed = struct_sizes(kernel)
    if assumed:
        not_known = not_known | {"sizes": f"{', '.join(assumed)}: as usual from 5.19 to 6.18"}
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    identity, part, cpu = read_identity(), part_of_host(), ksmd_cpu_seconds()
    info = {
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
        "kernel": {
            "release": platform.release(),
            "machine": platform.machine(),
            "page_size": PAGE_BYTES,
            "build_id": None,
            "uptime_seconds": taken_at_seconds,
        },
        "source": {"kind": "procfs", "path": str(PROC), "format": "procfs", "warnings": []},
        "host": platform.node(),
        "boot_id": identity.boot_id,
        "machine_id": identity.machine_id,
        "collected_at": started.isoformat(timespec="seconds"),
        "collect_seconds": seconds,
        "hash": about_hash(seed),
        **wanted.info(seed, PAGE_BYTES),
        "ksm": read_settings() | {"ksmd_cpu_ns": None if cpu is None else round(cpu * 1e9)},
        "sizes": sizes,
        **features(kernel, upstream_release()),
        "symbols": None,
        "thp_enabled": thp_enabled(),
        "thp_orders": thp_orders(),
        "damon_runs": damon_runs(),
        "zero_page_tagged": zero_page_tagged(),
        "without_contents": without_contents,
        "contents": contents,
        "part_of_host": dataclasses.asdict(part) if part else None,
        "unreadable_processes": names,
        "unknown": {
            "processes": lost + int(np.count_nonzero(~there)),
            "anonymous_pages": pages,
            "vmas": 0,
            "page_table_pages": 0,
            "changed_pages": int(lost_pages[anonymous].sum()),
            "stable_nodes": 0,
            "perhaps_ksm_frames": perhaps_ksm,
        },
        "not_known": not_known,
    }
    return Gathered(info, table, vmas, mappings, frames, _NO_NODES, _NO_ITEMS, *(tables or ()))


def _without_zero_page(mapped: Mapped, pfns: Packed, zero_page: Packed) -> Mapped:
    """``mapped`` without mappings of the frames that are a ``zero_page``; these are counted."""
    zeroes = Packed(np.uint64)
    for piece in side_by_side({"pfn": pfns, "zero": zero_page}):
        zeroes.append(piece["pfn"][piece["zero"]])
    if not len(zeroes):
        return mapped
    zero = ByPfn(zeroes, np.bool_, False)
    zero.put(zeroes[:], True)

    def others() -> Iterator[Mask]:
        for rows in mapped.pieces():
            gone = zero.has(rows.pfn)
            gone[gone] = zero.of(rows.pfn[gone])
            pages = np.bincount(rows.vma_id[gone], minlength=len(mapped.first_page))
            mapped.counts["zero_pages"] += pages.astype(np.uint64)
            yield ~gone

    masks = Packed(np.bool_)
    for mask in others():
        masks.append(mask)
    return mapped.keep(masks.drained())


def _renumbered(vmas: Columns, mms: npt.NDArray[np.bool_]) -> Columns:
    """The rows of the mms where ``mms`` is true, with new numbers of VMAs and mms."""
    kept = of_rows(vmas, mms[vmas["mm_id"]])
    kept["vma_id"] = np.arange(len(kept["mm_id"]), dtype=np.uint32)
    kept["mm_id"] = (np.cumsum(mms) - 1).astype(np.uint32)[kept["mm_id"]]
    return kept
