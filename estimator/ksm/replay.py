"""Which items go through the simulation, and what it needs to know about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers
from estimator.ksm.case import Case
from estimator.ksm.contents import first_split_of_folio
from estimator.ksm.frames import NEVER, distinct, live_node_frames
from estimator.ksm.mergeable import clean_read_only
from estimator.ksm.simulate import simulate
from estimator.ksm.simulate_turns import out_of_step, simulate_turns
from estimator.ksm.simulation import Frames, Items, Simulation
from estimator.ksm.turns import visits_of
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Ordered:
    """A simulation and the rows of ``mappings`` (i64) that are its items."""

    rows: Ints
    simulation: Simulation


def simulate_in_order(
    case: Case, frames: Mask, rows: Numbers, closed_trees: Mask, split: Numbers, through: int = 0
) -> Ordered:
    """Simulate all items of ``frames`` (bool per frame) and the items at ``rows``, together.

    ``closed_trees``: bool per content, see ``Frames.closed_trees``. ``split``: i32 per frame, the
    row at which other contents split its folio in scan 2. ``through``: see ``simulate``.
    """
    items, state = items_of(case, frames, rows, closed_trees, split)
    if out_of_step(items, state, case.rules):
        return Ordered(items.row, simulate_turns(items, state, case.rules))
    return Ordered(items.row, simulate(items, state, case.rules, through))


def items_of(
    case: Case, frames: Mask, rows: Numbers, closed_trees: Mask, split: Numbers
) -> tuple[Items, Frames]:
    """What the simulation is given; arguments as for ``simulate_in_order``."""
    facts, contents = case.facts, case.contents
    items, numbers = _items(case, frames, rows)
    counts = np.bincount(items.frame)
    frame = np.flatnonzero(counts)
    others = facts.mapcount[frame] - counts[frame]
    shared = others > 0
    nodes: dict[int, list[int]] = {}
    node_frames = live_node_frames(case.snapshot)
    node_frames = node_frames[np.isin(contents.of_frame[node_frames], numbers)]
    for node in node_frames.tolist():
        number = int(np.searchsorted(numbers, contents.of_frame[node]))
        nodes.setdefault(number, []).append(node)
    folio = distinct(items.folio[items.folio >= 0])
    when = first_split_of_folio(facts, split)[folio]
    early = np.flatnonzero(when != NEVER)
    early = early[np.argsort(when[early])]
    state = Frames(
        other_mappings=dict(zip(frame[shared].tolist(), others[shared].tolist(), strict=True)),
        nodes=nodes,
        pinned_folios=frozenset(facts.folio[frame[facts.pinned[frame]]].tolist()),
        splits=list(zip(when[early].tolist(), folio[early].tolist(), strict=True)),
        orphans=frozenset(frame[facts.ksm[frame] & ~facts.node[frame]].tolist()),
        closed_trees=frozenset(np.flatnonzero(closed_trees[numbers]).tolist()),
    )
    return items, state


def _items(case: Case, frames: Mask, rows: Numbers) -> tuple[Items, Ints]:
    """The items in scan order, and the numbers of their contents."""
    candidates, facts = case.candidates, case.facts
    chosen = candidates.row_numbers()[np.flatnonzero(frames[candidates.frame])]
    row = np.sort(np.concatenate([chosen, rows])).astype(np.int64)
    frame = case.frame_of_row[row].astype(np.int64)
    flags = case.mapping_flags[row]
    of_item = case.contents.of_frame[frame]
    numbers = distinct(of_item)
    content = np.searchsorted(numbers, of_item)
    opaque: npt.NDArray[np.bool_] = (flags & MappingFlag.PROT_NONE) != 0
    items = Items(
        row=row,
        content=content,
        frame=frame,
        folio=facts.folio[frame].astype(np.int64),
        zero=facts.zero[frame],
        blocked=facts.blocked[frame] | (facts.maybe_blocked[frame] & ~clean_read_only(flags)),
        locked=facts.mlocked[frame] | in_locked_vma(case.snapshot, row),
        opaque=opaque & case.rules.prot_none_blocks_tree,
        on_node=((flags & MappingFlag.MERGED) != 0) & facts.node[frame],
        visits=visits_of(case, row),
    )
    return items, numbers


def in_locked_vma(snapshot: Snapshot, rows: Ints | Numbers) -> Mask:
    """Bool per row of ``mappings`` in ``rows``: its VMA is VM_LOCKED."""
    vma = snapshot.mappings["vma_id"].to_numpy()[rows]
    locked: Mask = snapshot.vmas["locked"].to_numpy()[vma]
    return locked
