"""The way from a kernel to a snapshot: what is mapped where, and what is in it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.errors import BETTER_DUMP, CannotAnswerError, TargetError
from estimator.facts import FrameFlag, MappingFlag, Unknown
from estimator.snapshot import FORMAT_VERSION, SCHEMAS, Snapshot

if TYPE_CHECKING:
    from drgn import Program

    from estimator.kernel.frames import PageArray
    from estimator.kernel.pagetable import Entries
    from estimator.kernel.processes import Mms
    from estimator.kernel.target import Target
    from estimator.kernel.vmas import Vmas

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

Words = npt.NDArray[np.uint64]
_PIECE_PAGES = 4096  # read and hashed in one go: their struct pages fit the cache
_FRAME_FACTS = {
    "ok": np.bool_,
    "anonymous": np.bool_,
    "hash": np.uint64,
    "unknown": np.uint8,
    "flags": np.uint32,
    "order": np.uint8,
    "head_pfn": np.uint64,
    "node": np.uint16,
    "mapcount": np.int32,
    "refcount": np.int32,
    "folio_mapcount": np.int32,
}
_SAMPLE_PAGES = 1 << 16
_SPARSE = 16  # a table of all PFNs is made if one in so many is used


def silent(step: str, done: int, total: int) -> None:
    """A ``Progress`` that shows nothing."""


def collect_core(
    core: Path,
    symbols: Sequence[Path] = (),
    *,
    architecture: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Snapshot:
    """Everything a prediction needs from the crash dump ``core``.

    Takes the arguments and raises the errors of ``estimator.kernel.target.open_core``.
    """
    from estimator.kernel.target import open_core

    return collect(open_core(core, symbols, architecture), seed=seed, progress=progress)


def collect_program(prog: Program, *, seed: int = 0, progress: Progress = silent) -> Snapshot:
    """Like ``collect_core``, for a drgn Program with a target and symbols."""
    from estimator.kernel.target import from_program

    return collect(from_program(prog), seed=seed, progress=progress)


def collect(target: Target, *, seed: int = 0, progress: Progress = silent) -> Snapshot:
    """Everything a prediction needs from the open ``target``; ``seed`` is the hash's.

    Raises CannotAnswerError if that kernel has no KSM, TargetError if it can't be read.
    """
    from drgn import FaultError

    from estimator.kernel.target import require_ksm

    require_ksm(target.prog)
    try:
        return _Collector(target, seed, progress).snapshot()
    except (FaultError, LookupError) as error:
        if isinstance(error, IndexError):
            raise  # ours
        why = target.warnings[0] if target.warnings else f"{target.path} is damaged or incomplete"
        raise TargetError(f"{why} (the kernel's own data can't be read: {error})") from error


class _Collector:
    def __init__(self, target: Target, seed: int, progress: Progress) -> None:
        self._target = target
        self._prog = target.prog
        self._memory = target.memory
        self._seed = seed
        self._workers = len(os.sched_getaffinity(0))
        self._progress = progress
        self._started = datetime.datetime.now(datetime.UTC)

    def snapshot(self) -> Snapshot:
        from estimator.kernel.frames import PageArray
        from estimator.kernel.processes import read_processes
        from estimator.kernel.stable_tree import read_stable_tree
        from estimator.kernel.vmas import read_vmas

        self._progress("processes", 0, 1)
        mms = read_processes(self._prog, self._memory)
        if not len(mms.table):
            raise CannotAnswerError("no process with user memory was found in this kernel")
        vmas = read_vmas(self._prog, self._memory, mms.structs["vmas"])
        pages = PageArray(self._prog, self._memory)
        vma_table, mapped, pfns = self._walk(mms, vmas)
        self._require_user_pages(pages, pfns)
        mappings, frames = self._tables(pages, vma_table, mapped, pfns)
        nodes, items, lost = read_stable_tree(self._prog, self._memory, pages, mms.addresses)
        nodes.insert(3, "frame_id", _frame_ids(frames["pfn"].to_numpy(), nodes["pfn"].to_numpy()))
        _mark_merged(mappings, vma_table, nodes, items)
        unknown = {
            "processes": mms.unreadable,
            "vmas": vmas.unreadable,
            "page_table_pages": int(vma_table["unknown_pages"].sum()),
            "stable_nodes": lost,
        }
        snapshot = Snapshot(
            self._info(unknown), mms.table, vma_table, mappings, frames, nodes, items
        )
        if self._target.kind == "core":  # what runs contradicts itself all the time
            self._cross_check(snapshot, mms)
        return snapshot

    def _cross_check(self, snapshot: Snapshot, mms: Mms) -> None:
        """Add to ``info`` what the kernel's own counters have and we did not find."""
        from estimator.kernel.cross_checks import contradictions, missing_anonymous_pages

        tables = (snapshot.vmas, snapshot.mappings)
        info = snapshot.info
        info["unknown"]["anonymous_pages"] = missing_anonymous_pages(
            self._prog, mms.addresses, mms.table, *tables
        )
        info["source"]["warnings"] += contradictions(
            mms.structs["map_count"].astype(np.int64),
            *tables,
            snapshot.frames,
            snapshot.stable_nodes,
            snapshot.stable_items,
            info["ksm"]["counters"],
        )

    def _walk(self, mms: Mms, vmas: Vmas) -> tuple[pd.DataFrame, dict[str, Any], Words]:
        """The VMA table with what their page tables hold, and a row and a PFN per page mapped."""
        from estimator.kernel.names import vma_names
        from estimator.kernel.pagetable import KEY_PAGE_BITS, PageTables, Ranges
        from estimator.kernel.vmas import excluded_by, vm_flag_values

        prog = self._prog
        values = vm_flag_values(prog)
        reason = excluded_by(prog, vmas, values)
        key = vmas.mm.astype(np.uint64) << KEY_PAGE_BITS
        start, end = key | vmas.start >> np.uint64(12), key | vmas.end >> np.uint64(12)
        hugetlb = (vmas.flags & np.uint64(values["hugetlb"])) != 0
        walked = np.flatnonzero((vmas.anon_vma != 0) & ~hugetlb)
        tables = PageTables(prog, self._memory, Ranges(start[walked], end[walked]))
        pgd = mms.structs["pgd"] - np.uint64(self._memory.direct_map)
        wanted = np.unique(vmas.mm[walked]).astype(np.int64)
        count = _EntryCounts(prog, len(walked))
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        for entries in tables.walk(wanted.astype(np.uint64), pgd[wanted] >> np.uint64(12)):
            parts.append(count.mapped(entries, start[walked]))
            self._progress("page tables", len(parts), 0)
        index, page_index, pfn, flags = _concatenate(parts)
        table = pd.DataFrame(
            {
                "vma_id": np.arange(len(vmas.start), dtype=np.uint32),
                "mm_id": vmas.mm,
                "start": vmas.start,
                "end": vmas.end,
                "vm_flags": vmas.flags,
                "name": vma_names(prog, vmas, mms.structs),
                "mergeable": (vmas.flags & np.uint64(values["mergeable"])) != 0,
                "compatible": reason == None,  # noqa: E711
                "excluded_by": reason,
                "has_anon_vma": vmas.anon_vma != 0,
                "locked": (vmas.flags & np.uint64(values["locked"])) != 0,
            }
        )
        count.nonpresent += tables.nonpresent_pages
        for name, pages in (
            ("swap_pages", count.swap),
            ("zero_pages", count.zero),
            ("ksm_zero_pages", count.ksm_zero),
            ("nonpresent_pages", count.nonpresent),
            ("unknown_pages", tables.unreadable_pages),
        ):
            column = np.zeros(len(table), np.uint64)
            column[walked] = pages
            table[name] = column
        vma_id = walked.astype(np.uint32)[index]
        return table, {"vma_id": vma_id, "page_index": page_index, "flags": flags}, pfn

    def _require_user_pages(self, pages: PageArray, pfns: Words) -> None:
        """Raise CannotAnswerError if most of the anonymous frames were left out of the dump.

        An ELF dump does not say so in its headers. Judged by a sample, before all are read.
        """
        sample = np.unique(pfns[:: len(pfns) // _SAMPLE_PAGES + 1])
        info = pages.read(sample)
        unknown = self._memory.unknown(sample[info.ok & info.anonymous])
        excluded = int((unknown == Unknown.EXCLUDED).sum())
        if 2 * excluded > len(unknown):
            raise CannotAnswerError(
                f"{self._target.path} has no user pages: {excluded:,} of {len(unknown):,} "
                "anonymous frames looked for were left out (makedumpfile -d 8 or -d 31 does that)",
                hint=BETTER_DUMP,
            )

    def _frames(self, pages: PageArray, distinct: Words) -> dict[str, npt.NDArray[Any]]:
        """Columns of facts about the frames ``distinct``; the hash only of anonymous ones."""
        from estimator.hashing import hash_frames
        from estimator.workers import forked, shared_columns

        columns = shared_columns(len(distinct), _FRAME_FACTS)
        pieces = [
            slice(start, start + _PIECE_PAGES) for start in range(0, len(distinct), _PIECE_PAGES)
        ]

        def read(worker: int) -> None:
            for number, piece in enumerate(pieces[worker :: self._workers]):
                info = pages.read(distinct[piece])
                for name, values in vars(info).items():
                    if name in columns:
                        columns[name][piece] = values
                rows = piece.start + np.flatnonzero(info.ok & info.anonymous)
                columns["hash"][rows], columns["unknown"][rows] = hash_frames(
                    self._memory, distinct[rows], self._seed
                )
                if worker == 0:
                    done = min((number + 1) * self._workers * _PIECE_PAGES, len(distinct))
                    self._progress("frames", done, len(distinct))

        with forked(self._workers - 1, lambda worker: read(worker + 1)):
            read(0)
        return columns

    def _tables(
        self, pages: PageArray, vmas: pd.DataFrame, mapped: dict[str, Any], pfns: Words
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """``mappings`` and ``frames``: of all that is mapped, what is anonymous or KSM's."""
        from estimator.hashing import zero_hash

        distinct, row = _distinct(pfns)
        columns = self._frames(pages, distinct)
        ok = columns.pop("ok")
        if not ok.all():
            lost = np.bincount(mapped["vma_id"][~ok[row]], minlength=len(vmas))
            vmas["unknown_pages"] += lost.astype(np.uint64)
        keep = ok & columns.pop("anonymous")
        frame_id = (np.cumsum(keep) - 1).astype(np.uint32)
        kept = keep[row]
        mapped["frame_id"] = frame_id[row]
        mappings = {name: mapped[name][kept] for name in SCHEMAS["mappings"].names}
        frames: dict[str, Any] = {"pfn": distinct[keep]}
        frames |= {name: values[keep] for name, values in columns.items()}
        hashed = frames["unknown"] == Unknown.HASHED
        zero = hashed & (frames["hash"] == zero_hash(self._seed))
        frames["flags"][zero] |= np.uint32(FrameFlag.ZERO)
        frames["hash"] = pd.arrays.IntegerArray(frames["hash"], ~hashed)
        return pd.DataFrame(mappings, copy=False), pd.DataFrame(frames, copy=False)

    def _info(self, unknown: dict[str, int]) -> dict[str, Any]:
        from estimator.hashing import HASH_NAME
        from estimator.kernel import settings
        from estimator.kernel.target import kernel_release

        prog = self._prog
        build_id = prog.main_module().build_id
        return {
            "format_version": FORMAT_VERSION,
            "program_version": version("ksm-estimator"),
            "kernel": {
                "release": kernel_release(prog),
                "machine": prog.platform.arch.name.lower() if prog.platform else "unknown",
                "page_size": 4096,
                "build_id": build_id.hex() if build_id else None,
            },
            "source": {
                "kind": self._target.kind,
                "path": os.path.abspath(self._target.path),
                "format": self._target.format,
                "warnings": list(self._target.warnings),
            },
            "host": prog["init_uts_ns"].name.nodename.string_().decode(errors="replace"),
            "collected_at": self._started.isoformat(timespec="seconds"),
            "collect_seconds": (
                datetime.datetime.now(datetime.UTC) - self._started
            ).total_seconds(),
            "hash": {"name": HASH_NAME, "seed": self._seed},
            "ksm": settings.read_settings(prog),
            "sizes": settings.struct_sizes(prog),
            "features": settings.features(prog),
            "thp_enabled": settings.thp_enabled(prog),
            "unknown": unknown,
        }


class _EntryCounts:
    """Sorts the entries of page tables into mappings and counts by VMA (i64 per range)."""

    def __init__(self, prog: Any, ranges: int) -> None:
        self._zero_pfn = np.uint64(int(prog["zero_pfn"]))
        self._swap_types = np.uint64(len(prog["swap_info"]) if "swap_info" in prog else 0)
        self.swap, self.zero, self.ksm_zero, self.nonpresent = np.zeros((4, ranges), np.int64)

    def mapped(self, entries: Entries, start: Words) -> tuple[npt.NDArray[Any], ...]:
        """Range, page index, PFN and ``MappingFlag`` of what maps a page; the rest is counted."""
        present, pfn = entries.present, entries.pfn
        zero = present & (pfn == self._zero_pfn)
        swap = ~present & (entries.value >> np.uint64(59) < self._swap_types)  # __swp_type()
        self._add(self.swap, entries, swap)
        self._add(self.nonpresent, entries, ~present & ~swap)
        self._add(self.ksm_zero, entries, zero & entries.dirty)  # is_ksm_zero_pte()
        self._add(self.zero, entries, zero & ~entries.dirty)
        keep = present & ~zero & ~entries.special
        flags = np.zeros(len(pfn), np.uint8)
        for flag, which in (
            (MappingFlag.PROT_NONE, entries.prot_none),
            (MappingFlag.HUGE, entries.huge),
            (MappingFlag.WRITABLE, entries.writable),
            (MappingFlag.DIRTY, entries.dirty),
        ):
            flags |= which.view(np.uint8) * np.uint8(flag)
        index = entries.range_index
        page_index = (entries.key - start[index]).astype(np.uint32)
        columns = (index.astype(np.uint32), page_index, pfn, flags)
        return columns if keep.all() else tuple(column[keep] for column in columns)

    def _add(self, total: npt.NDArray[np.int64], entries: Entries, which: Any) -> None:
        if which.any():
            total += np.bincount(entries.range_index[which], minlength=len(total))


def _distinct(pfns: Words) -> tuple[Words, npt.NDArray[np.int64]]:
    """The distinct PFNs, ascending, and the row there of each of ``pfns``."""
    first = int(pfns.min(initial=0))
    span = int(pfns.max(initial=0)) - first + 1
    if span > _SPARSE * len(pfns):
        distinct, row = np.unique(pfns, return_inverse=True)
        return distinct, row
    place = (pfns - np.uint64(first)).view(np.int64)
    used = np.zeros(span, np.bool_)
    used[place] = True
    distinct = np.flatnonzero(used).view(np.uint64) + np.uint64(first)
    return distinct, (np.cumsum(used, dtype=np.int64) - 1)[place]


def _concatenate(parts: list[tuple[npt.NDArray[Any], ...]]) -> tuple[npt.NDArray[Any], ...]:
    if not parts:
        return (
            np.empty(0, np.uint32),
            np.empty(0, np.uint32),
            np.empty(0, np.uint64),
            np.empty(0, np.uint8),
        )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _frame_ids(pfns: Words, wanted: Words) -> Any:
    """frame_id of the PFNs ``wanted``, null where no process maps the frame."""
    place = np.searchsorted(pfns, wanted)
    found = place < len(pfns)
    found[found] = pfns[place[found]] == wanted[found]
    place[~found] = 0
    return pd.arrays.IntegerArray(place.astype(np.uint32), ~found)


def _mark_merged(
    mappings: pd.DataFrame, vmas: pd.DataFrame, nodes: pd.DataFrame, items: pd.DataFrame
) -> None:
    """Set MappingFlag.MERGED where the rmap_item of a mapping is on the live node of its frame."""
    live = nodes["live"].to_numpy()[items["node_id"]] if len(items) else np.empty(0, np.bool_)
    items = items[live]
    if not len(items) or not len(mappings):
        return
    page = np.uint64(12)
    vma = mappings["vma_id"].to_numpy()
    mm_id, start = vmas["mm_id"].to_numpy(np.uint64), vmas["start"].to_numpy()
    key = (mm_id[vma] << np.uint64(45)) | ((start[vma] >> page) + mappings["page_index"].to_numpy())
    wanted = (items["mm_id"].to_numpy(np.uint64) << np.uint64(45)) | (
        items["address"].to_numpy() >> page
    )
    row = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    frame = nodes["frame_id"].to_numpy(np.int64, na_value=-1)[items["node_id"]]
    same = (key[row] == wanted) & (mappings["frame_id"].to_numpy()[row] == frame)
    flags = mappings["flags"].to_numpy().copy()
    flags[row[same]] |= np.uint8(MappingFlag.MERGED)
    mappings["flags"] = flags
