"""The way from a kernel to a snapshot: what is mapped where, and what is in it."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from estimator.arrays import usable_cpus
from estimator.collect.budget import refuse_beyond
from estimator.collect.by_pfn import ByPfn
from estimator.collect.further_hashes import Areas, Further, Wanted
from estimator.collect.load import Pace
from estimator.collect.mappings import Mapped, distinct_of, first_mappings
from estimator.collect.progress import Progress, silent
from estimator.collect.seed import random_seed
from estimator.collect.settle import settle
from estimator.collect.tables import Table, kinds_of, leave_out_unmapped, make_tables, other_tables
from estimator.errors import CannotAnswerError, TargetError
from estimator.kernel.frame_reader import FrameReader
from estimator.packed import Packed
from estimator.snapshot.format import CONTENTS
from estimator.snapshot.gathered import Gathered, objects

if TYPE_CHECKING:
    from drgn import Program

    from estimator.kernel.address_spaces import AddressSpaces
    from estimator.kernel.page_array import PageArray
    from estimator.kernel.processes import Mms
    from estimator.kernel.stable_tree import StableTree
    from estimator.kernel.target import Target
    from estimator.kernel.vmas import Vmas
    from estimator.snapshot.snapshot import Snapshot


def collect_core(
    core: Path | Sequence[Path],
    symbols: Sequence[Path] = (),
    *,
    architecture: str | None = None,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Progress = silent,
) -> Snapshot:
    """Everything a prediction needs from the crash dump ``core``.

    Takes the arguments and raises the errors of ``estimator.kernel.core.open_core`` and
    ``collect``.
    """
    from estimator.kernel.core import open_core

    with open_core(core, symbols, architecture) as target:
        snapshot = collect(
            target,
            without_contents=without_contents,
            contents=contents,
            seed=seed,
            wanted=wanted,
            progress=progress,
        )
    del target
    gc.collect()  # drgn's types refer to each other: only so its Program goes, and closes its files
    return snapshot


def collect_program(
    prog: Program,
    *,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Progress = silent,
) -> Snapshot:
    """Like ``collect_core``, for a drgn Program with a target and symbols."""
    from estimator.kernel.session import from_program

    with from_program(prog) as target:
        return collect(
            target,
            without_contents=without_contents,
            contents=contents,
            seed=seed,
            wanted=wanted,
            progress=progress,
        )


def collect(
    target: Target,
    *,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Progress = silent,
    pace: Pace | None = None,
    workers: int | None = None,
    max_memory_bytes: int | None = None,
) -> Snapshot:
    """What ``gather`` finds, with its arguments and errors, as DataFrames."""
    return gather(
        target,
        without_contents=without_contents,
        contents=contents,
        seed=seed,
        wanted=wanted,
        progress=progress,
        pace=pace,
        workers=workers,
        max_memory_bytes=max_memory_bytes,
    ).snapshot()


def gather(
    target: Target,
    *,
    without_contents: bool = False,
    contents: str = CONTENTS[0],
    seed: int | None = None,
    wanted: Wanted | None = None,
    progress: Progress = silent,
    pace: Pace | None = None,
    workers: int | None = None,
    max_memory_bytes: int | None = None,
    answers: int = 0,
    meanwhile: Callable[[], None] = lambda: None,
) -> Gathered:
    """Everything a prediction needs from the open ``target``; ``seed`` is the hash's.

    Without ``seed`` it is a new one: hashes can be compared within the snapshot only.
    ``without_contents``: no page of a process is read; what is in the frames is unknown.
    ``contents``: of which memory, one of ``CONTENTS``; other than anonymous memory is found through
    page tables: shared memory that no process has touched is not there.
    ``wanted``: further hashes. ``pace`` limits how fast memory is read (only of a running system).
    ``workers``: how many processes read and hash; without it one of a running system, of a dump as
    many as there are cores. The connection to QEMU can't be shared: one.
    ``answers``: bytes of a mapping that a prediction takes afterwards, asked for too; 0: none
    follows. ``meanwhile`` is done while the other workers hash.

    Raises CannotAnswerError if that kernel has no KSM or is not supported, or if a dump has no user
    pages and contents are asked for; TargetError if it can't be read, UsageError if more than
    ``max_memory_bytes`` may be needed, ResourceError if this machine lacks memory, processes or
    files.
    """
    from estimator.kernel.failures import reading
    from estimator.kernel.requirements import require_ksm

    require_ksm(target.prog)
    seed = random_seed() if seed is None else seed
    with reading(target.prog, target.damage):
        collector = _Collector(
            target,
            without_contents,
            contents,
            seed,
            wanted or Wanted(),
            progress,
            pace or Pace(None),
            workers,
        )
        return collector.gather(max_memory_bytes, answers, meanwhile)


class _Collector:
    def __init__(
        self,
        target: Target,
        without_contents: bool,
        contents: str,
        seed: int,
        wanted: Wanted,
        progress: Progress,
        pace: Pace,
        workers: int | None,
    ) -> None:
        self._target = target
        self._without_contents = without_contents
        self._contents = contents
        self._prog = target.prog
        self._memory = target.memory
        self._seed, self._wanted = seed, wanted
        # a running system has other work to do
        usual = 1 if target.running else usable_cpus()
        self._workers = workers or usual
        self._progress = progress
        self._pace = pace
        self._started = datetime.datetime.now(datetime.UTC)

    def gather(
        self, max_memory_bytes: int | None, answers: int, meanwhile: Callable[[], None]
    ) -> Gathered:
        from estimator.kernel.address_spaces import AddressSpaces
        from estimator.kernel.clock import uptime_seconds, wall_clock
        from estimator.kernel.cmdlines import read_cmdlines
        from estimator.kernel.cross_checks import anonymous_pages, other_pages
        from estimator.kernel.layout import has_member
        from estimator.kernel.lru_batches import read_batches
        from estimator.kernel.mapcounts import derive_mapcounts
        from estimator.kernel.merged_pages import frame_ids, mark_merged
        from estimator.kernel.own_process import own_mm
        from estimator.kernel.page_array import PageArray
        from estimator.kernel.processes import read_processes, still_there
        from estimator.kernel.scan_visits import add_visits, read_visits
        from estimator.kernel.snapshot_info import snapshot_info
        from estimator.kernel.stable_tree import read_stable_tree
        from estimator.kernel.user_pages import require_mappings, require_user_pages
        from estimator.kernel.vmas import read_vmas

        clock = {
            "uptime_seconds": uptime_seconds(self._prog),
            "wall_clock": wall_clock(self._prog),
        }
        self._progress("processes", 0, 1)
        mms = read_processes(self._prog, self._memory)
        if self._target.kind == "live" and len(mms.structs):
            mms = mms.without(own_mm(mms))  # reading changes it
        if not len(mms.structs):
            if self._target.warnings:
                raise TargetError(f"{self._target.warnings[0]} (no process can be read)")
            raise CannotAnswerError("no process with user memory was found in this kernel")
        running = self._target.running  # in a damaged dump the counters may be anything
        if running or max_memory_bytes is not None:
            mapped_pages = anonymous_pages(self._prog, self._memory, mms.addresses)
            mapped_pages += other_pages(self._prog, self._memory, mms.addresses, self._contents)
            refuse_beyond(max_memory_bytes, mapped_pages, running=running, answers=answers)
        vmas = read_vmas(self._prog, self._memory, mms)
        pages = PageArray(self._prog, self._memory)
        spaces = AddressSpaces(self._prog, self._memory, mms, vmas, self._contents)
        mapped = self._walk(spaces)
        pfns = distinct_of(mapped.pfn)
        require_mappings(self._target, pfns, vmas.unreadable)
        if not self._without_contents:
            require_user_pages(self._target, pages, pfns)

        def describe() -> None:
            """What hashing does not need to know."""
            cmdlines = read_cmdlines(self._prog, self._memory, mms.structs)
            mms.columns["cmdline"] = objects(cmdlines)
            _ = spaces.columns  # which are kept
            meanwhile()

        reader = self._reader(pages, vmas)
        of_frames = self._kinds(pfns, mapped, spaces), self._first_mm(mapped, pfns, vmas)
        facts = reader.read(pfns, *of_frames, describe)
        batches = read_batches(self._prog, self._memory, pages)
        changed = 0
        if self._target.running:
            latest = [mapped]

            def walk_again() -> Mapped:
                latest[:] = [self._walk(spaces)]
                return latest[0]

            def look(more: Packed) -> Table:
                kinds = self._kinds(more, latest[0], spaces)
                return reader.read(more, kinds, self._first_mm(latest[0], more, vmas))

            mapped, pfns, facts, lost = settle(mapped, pfns, facts, walk_again, look)
            latest.clear()
            changed = int(lost[spaces.anonymous].sum())
            there = still_there(self._prog, self._memory, mms)  # what has exited is left out
            mapped = mapped.of_vmas(there[vmas.mm])
            mms, vmas = mms.keep(there), vmas.of_mms(there)
            spaces = AddressSpaces(self._prog, self._memory, mms, vmas, self._contents)
            leave_out_unmapped(mapped, pfns, facts)
        vma_columns = spaces.columns
        others = None
        if self._contents != CONTENTS[0]:
            others = other_tables(mapped, pfns, facts, self._seed, self._memory.page_bytes)
        mappings, frames = make_tables(
            vma_columns, mapped, pfns, facts, self._seed, self._memory.page_bytes
        )
        derived = 0
        if has_member(self._prog, "struct folio", "_mm_id_mapcount"):  # 6.15+, as the option
            derived = derive_mapcounts(mappings, frames)
        frames["batch_references"] = Packed(np.uint8)
        for some in frames["pfn"].pieces():
            frames["batch_references"].append(batches.of(some))
        tree = read_stable_tree(self._prog, self._memory, pages, mms.addresses)
        nodes = tree.nodes
        nodes["frame_id"] = frame_ids(frames["pfn"], nodes["pfn"])
        mark_merged(mappings, vma_columns, nodes, tree.items, self._memory.page_shift)
        visits = read_visits(self._prog, self._memory, mms.addresses)
        if visits is not None:
            add_visits(mappings, vma_columns, visits, self._memory.page_shift)
        unknown = {
            "processes": mms.unreadable,
            "vmas": vmas.unreadable,
            "page_table_pages": int(vma_columns["unknown_pages"][spaces.anonymous].sum()) - changed,
            "changed_pages": changed,
            "stable_nodes": tree.unreadable,
            "rmap_lists": visits.unreadable if visits is not None else 0,
        }
        processes = {"mm_id": np.arange(len(mms.structs), dtype=np.uint32)} | mms.columns
        info = snapshot_info(
            self._target,
            started=self._started,
            clock=clock,
            seed=self._seed,
            wanted=self._wanted,
            without_contents=self._without_contents,
            contents=self._contents,
            mms=mms,
            pages=pages,
            unknown=unknown,
        )
        gathered = Gathered(
            info, processes, vma_columns, mappings, frames, nodes, tree.items, *(others or ())
        )
        if derived:
            info["source"]["warnings"].append(
                f"this kernel does not count the mappings of {derived:,} pages of large folios "
                "(CONFIG_NO_PAGE_MAPCOUNT): those that were found are taken for all"
            )
        if batches.unreadable:
            info["source"]["warnings"].append(
                f"{batches.unreadable} per-CPU batches of pages could not be read: "
                "what is in them looks pinned"
            )
        if self._target.kind == "core":  # what runs contradicts itself all the time
            self._cross_check(gathered, mms, tree)
        return gathered

    def _cross_check(self, gathered: Gathered, mms: Mms, tree: StableTree) -> None:
        """Add to ``info`` what the kernel's own counters have and we did not find."""
        from estimator.kernel.cross_checks import contradictions, missing_anonymous_pages

        tables = (gathered.vmas, gathered.mappings)
        info = gathered.info
        info["unknown"]["anonymous_pages"] = missing_anonymous_pages(
            self._prog, self._memory, mms.addresses, mms.columns, *tables
        )
        info["source"]["warnings"] += contradictions(
            mms.structs["map_count"].astype(np.int64),
            *tables,
            gathered.frames,
            tree,
            info["ksm"]["counters"],
        )

    def _reader(self, pages: PageArray, vmas: Vmas) -> FrameReader:
        further = None
        if self._wanted != Wanted():
            areas = Areas(vmas.mm, vmas.start, vmas.end)
            further = Further(self._wanted, self._seed, areas, self._memory.page_bytes)
        return FrameReader(
            self._target,
            pages,
            seed=self._seed,
            further=further,
            without_contents=self._without_contents,
            workers=self._workers,
            pace=self._pace,
            progress=self._progress,
        )

    def _walk(self, spaces: AddressSpaces) -> Mapped:
        return spaces.walk(lambda batches: self._progress("page tables", batches, 0))

    def _kinds(self, pfns: Packed, mapped: Mapped, spaces: AddressSpaces) -> ByPfn | None:
        """What the frames ``pfns`` are if not anonymous; None: nobody asked for others."""
        if self._contents == CONTENTS[0]:
            return None
        return kinds_of(pfns, mapped, spaces.kinds)

    def _first_mm(self, mapped: Mapped, pfns: Packed, vmas: Vmas) -> ByPfn | None:
        """The mm that maps each of the frames ``pfns`` first, -1: none; None: nobody asks."""
        if not self._wanted.near:
            return None
        mm = ByPfn(pfns, np.int64, -1)
        for rows in first_mappings(pfns, mapped):
            mm.put(rows.pfn, vmas.mm[rows.vma_id])
        return mm
