"""What becomes of every mapping and every frame: closed forms first, then the simulation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers, alike, each_piece, pieces, take
from estimator.ksm.case import Case
from estimator.ksm.closed_forms import ClosedForms, closed_forms
from estimator.ksm.contents import first_split_of_folio, per_frame
from estimator.ksm.frames import NEVER
from estimator.ksm.prediction import Outcome
from estimator.ksm.replay import Ordered, in_locked_vma, simulate_in_order
from estimator.ksm.zero_pages import (
    FewItems,
    ZeroPages,
    can_vanish,
    deciding_items,
    use_zero_pages,
    zero_contents_apart,
)
from estimator.snapshot.flags import MappingFlag


@dataclass(frozen=True)
class Fate:
    """The state at rest.

    ``outcome``: u8 ``Outcome`` per row of ``mappings``. ``stable_frame``: i32 per row, the
    frame_id of the KSM frame it maps, -1 unless MERGED. ``copied``: i64 rows that map a copy made
    by break_cow(). ``left``: i32 per frame, candidate mappings that left it. ``vanished``: bool
    per frame, the split of its folio took its mappings, and none of them keeps changing. ``ksm``:
    bool per frame, a KSM page in the end. ``node``: bool per frame, the page of a stable node with
    items. ``split``: bool per large folio. ``scans``: full scans until at rest. ``simulated``:
    i64, the rows simulated. ``kept_apart``: see ``ClosedForms``.
    """

    outcome: npt.NDArray[np.uint8]
    stable_frame: Numbers
    copied: Ints
    left: Numbers
    vanished: Mask
    ksm: Mask
    node: Mask
    split: Mask
    scans: int
    simulated: Ints
    kept_apart: int = 0


@dataclass(frozen=True)
class Solved:
    """The parts of the answer before they are put together.

    ``root``: see ``hidden_roots``. ``zero_frames``: bool per frame, its items are of a zero-filled
    content that is not simply one like any other; ``locked_frames``: such ones with an item in a
    VM_LOCKED VMA.
    """

    root: Ints
    zero_frames: Mask
    locked_frames: Mask
    few: FewItems
    zero_pages: ZeroPages | None
    closed: ClosedForms
    ordered: Ordered | None


def settle(case: Case) -> Fate:
    """Decide the fate of every candidate."""
    solved = solve(case)
    case = case.settled()
    return fate_of(case, solved)


def solve(
    case: Case, through: int | None = None, hidden: tuple[Ints, Mask] | None = None
) -> Solved:
    """Apply the rules to every candidate. ``hidden``: see ``before_simulation``.

    ``through``: the parts have to say what each full scan shows too, up to this one (``scans.py``).
    None: only what is at rest.
    """
    in_time = through is not None
    solved, in_order, closed_trees = before_simulation(case, in_time=in_time, hidden=hidden)
    if not (in_order.any() or len(solved.few.rows)):
        return solved
    rows, split = solved.few.rows, solved.closed.split
    ordered = simulate_in_order(case, in_order, rows, closed_trees, split, through or 0)
    return replace(solved, ordered=ordered)


def before_simulation(
    case: Case, *, in_time: bool = False, hidden: tuple[Ints, Mask] | None = None
) -> tuple[Solved, Mask, Mask]:
    """What needs no simulation; the frames (bool) that do; ``closed_trees`` of ``hidden_roots``.

    ``in_time``: see ``closed_forms``. ``hidden``: the ``hidden_roots`` of a larger case, of which
    this is a part.
    """
    contents, facts, rules = case.contents, case.facts, case.rules
    root, closed_trees = hidden or hidden_roots(case)
    apart = zero_contents_apart(contents, facts, rules)
    zero_frames = alike(per_frame(apart, contents) & (facts.items > 0))
    locked_frames = _frames_with_locked_items(case, zero_frames)
    nothing = np.broadcast_to(np.False_, len(facts.items))
    split = np.broadcast_to(np.int32(NEVER), len(facts.items))
    if facts.folio.max(initial=-1) >= 0:
        split = split.copy()
    few = FewItems(frames=nothing, rows=split[:0], follow=nothing)
    zero_pages = None
    if rules.use_zero_pages and apart.any():
        unusual = closed_trees.copy()
        unusual[contents.of_frame[facts.known & (facts.ksm | facts.maybe_blocked)]] = True
        few = FewItems(per_frame(apart & unusual, contents) & zero_frames, few.rows, nothing)
        zero_pages = use_zero_pages(contents, facts, apart & ~unusual, rules)
        split = zero_pages.split
    elif apart.any():
        few = deciding_items(facts, zero_frames, locked_frames, rules)

    with_node = np.zeros(len(contents), dtype=bool)
    with_node[contents.of_frame[facts.known & facts.node]] = True
    closed = closed_forms(case, apart | (closed_trees & ~with_node), split, in_time=in_time)
    in_order = few.frames | (per_frame(closed.open, contents) & (facts.items > 0))
    solved = Solved(root, zero_frames, locked_frames, few, zero_pages, closed, None)
    return solved, in_order, closed_trees


def hidden_roots(case: Case) -> tuple[Ints, Mask]:
    """The rows at the root of an unstable tree that no search can pass, and the contents behind.

    Bool per content. Where get_mergeable_page() can't see PROT_NONE pages, the walker still inserts
    them. If one is the first page that a scan inserts, unstable_tree_search_insert() gives up at
    the root for every other page of the scan.
    """
    roots: Mapping[int, int] = {}
    if case.facts.opaque.any():
        roots = closing_roots(case.mapping_flags, first_inserted(case))
    return np.array([*roots.values()], dtype=np.int64), behind_roots(case, roots)


def closing_roots(flags: npt.NDArray[np.uint8], first: Mapping[int, int]) -> dict[int, int]:
    """Those of ``first``, see ``first_inserted``, that no search can pass.

    ``flags``: ``MappingFlag`` per row of ``mappings``.
    """
    return {tree: row for tree, row in first.items() if flags[row] & MappingFlag.PROT_NONE}


def behind_roots(case: Case, trees: Collection[int]) -> Mask:
    """Bool per content: it is of one of ``trees``, numbered as by ``first_inserted``."""
    behind = np.zeros(len(case.contents), dtype=bool)
    if trees:
        inside = np.isin(_trees(case), list(trees)) & case.facts.known
        behind[case.contents.of_frame[inside]] = True
    return behind


def first_inserted(case: Case) -> dict[int, int]:
    """The row that a scan inserts first into each unstable tree, by the number of its NUMA node.

    0 where there is one tree for all nodes.
    """
    facts, contents = case.facts, case.contents
    with_node = np.zeros(len(contents), dtype=bool)
    with_node[contents.of_frame[facts.known & facts.node]] = True
    frame = case.candidates.frame
    enters = ~(per_frame(with_node, contents) | facts.ksm)
    if case.rules.use_zero_pages:
        enters &= ~facts.zero | facts.blocked
    rows = case.candidates.row_numbers()[enters[frame]]
    tree_of_row = _trees(case)[case.frame_of_row[rows]]
    trees, first = np.unique(tree_of_row, return_index=True)
    return dict(zip(trees.tolist(), rows[first].tolist(), strict=True))


def _trees(case: Case) -> npt.NDArray[np.uint16]:
    """The number of the tree that each frame is of."""
    node: npt.NDArray[np.uint16] = case.snapshot.frames["node"].to_numpy()
    return np.zeros_like(node) if case.rules.merge_across_nodes else node


def _frames_with_locked_items(case: Case, frames: Mask) -> Mask:
    """Bool per frame, to be read alone: one of ``frames`` with an item in a VM_LOCKED VMA."""
    if not (frames.any() and case.snapshot.vmas["locked"].any()):
        return np.broadcast_to(np.False_, len(frames))
    found = np.zeros(len(frames), dtype=bool)
    chosen = np.flatnonzero(frames[case.candidates.frame])
    locked = in_locked_vma(case.snapshot, case.candidates.row_numbers()[chosen])
    found[case.candidates.frame[chosen[locked]]] = True
    return found


def fate_of(case: Case, solved: Solved) -> Fate:
    """Put the parts together; ``closed.stable_frame`` becomes ``Fate.left``, and is gone."""
    facts, candidates, closed, root = case.facts, case.candidates, solved.closed, solved.root
    split = _split_folios(case, solved)
    vanished = _vanished(case, split)
    code = np.full(len(facts.items), Outcome.UNKNOWN, np.uint8)
    for frames, what in _outcomes_of_frames(case, solved, vanished):
        code[frames] = what
    outcome = _per_row(case, code, Outcome.NOT_CANDIDATE)
    stable_frame = _per_row(case, closed.stable_frame, -1)
    for rows, what in _outcomes_of_rows(case, solved):
        outcome[rows] = what
    outcome[root[outcome[root] == Outcome.VOLATILE]] = Outcome.UNSHARED

    left, node = closed.stable_frame, np.zeros(len(code), dtype=bool)

    def leave(piece: slice) -> None:
        to = left[piece]
        node[to[to >= 0]] = True
        away = (to >= 0) & (to != np.arange(piece.start, piece.stop, dtype=np.int32))
        to[:] = np.where(away | _gone(code[piece]), facts.items[piece], np.int32(0))

    each_piece(len(code), leave)
    ksm = facts.ksm | node
    ksm[case.frame_of_row[closed.copied]] = True
    copied = closed.copied.astype(np.int64)
    scans = closed.scans if solved.zero_pages is None else max(closed.scans, 3)
    if solved.ordered is not None:
        rows, result = solved.ordered.rows, solved.ordered.simulation
        stable_frame[rows] = result.stable_frame
        copied = np.append(copied, rows[result.copied])
        scans = max(scans, result.scans)
        frame = case.frame_of_row[rows]
        node[result.stable_frame[result.stable_frame >= 0]] = True
        ksm |= node
        ksm[list(result.orphans)] = True
        moved = (result.outcome == Outcome.MERGED) & (result.stable_frame != frame)
        moved |= _gone(result.outcome)
        moved &= ~_gone(code[frame])
        np.add.at(left, frame[moved], np.int32(1))
    np.add.at(left, case.frame_of_row[copied], np.int32(1))
    if vanished.any():
        vanished[case.frame_of_row[candidates.written]] = False
    simulated = solved.ordered.rows if solved.ordered else root[:0]
    return Fate(
        outcome,
        stable_frame,
        copied,
        left,
        vanished,
        ksm,
        node,
        split,
        scans,
        simulated,
        closed.kept_apart,
    )


def _gone(outcome: npt.NDArray[np.uint8]) -> Mask:
    """Which of them leave their frame for the zero page."""
    gone: Mask = (outcome == Outcome.ZERO_PAGE) | (outcome == Outcome.SPLIT_AWAY)
    return gone


def _outcomes_of_frames(
    case: Case, solved: Solved, vanished: Mask
) -> Iterator[tuple[Mask, Outcome | npt.NDArray[np.uint8]]]:
    """Layers, the lowest first: frames, and what all their items come to."""
    yield case.facts.known, Outcome.VOLATILE
    yield solved.closed.stable_frame >= 0, Outcome.MERGED
    if solved.zero_pages is not None:
        taken = solved.zero_frames & ~solved.few.frames
        yield taken, solved.zero_pages.outcome[taken]
    yield solved.few.follow & vanished, Outcome.SPLIT_AWAY


def _outcomes_of_rows(
    case: Case, solved: Solved
) -> Iterator[tuple[Ints | Numbers, Outcome | npt.NDArray[np.uint8]]]:
    """Layers, the lowest first: rows of ``mappings`` that are not as their frame, and what is."""
    yield case.candidates.changing, Outcome.VOLATILE
    yield solved.closed.unshared, Outcome.UNSHARED
    if solved.zero_pages is not None:
        if solved.locked_frames.any():
            yield _locked_zero_pages(case, solved.locked_frames, solved.zero_pages)
        yield solved.zero_pages.unshared, Outcome.UNSHARED
    if solved.ordered is not None:
        yield solved.ordered.rows, solved.ordered.simulation.outcome


def _split_folios(case: Case, solved: Solved) -> Mask:
    is_split = first_split_of_folio(case.facts, solved.closed.split) != NEVER
    if solved.ordered is not None:
        is_split[list(solved.ordered.simulation.split_folios)] = True
    return is_split


def _vanished(case: Case, is_split: Mask) -> Mask:
    """Frames that lost every mapping to the zero page in a split of their folio."""
    vanishing = can_vanish(case.facts, case.rules)
    if not vanishing.any():
        return vanishing
    vanishing &= np.append(is_split, False)[case.facts.folio]
    return vanishing & ~_frames_with_locked_items(case, vanishing)


def _locked_zero_pages(
    case: Case, locked_frames: Mask, zero_pages: ZeroPages
) -> tuple[Numbers, npt.NDArray[np.uint8]]:
    """The rows in VM_LOCKED VMAs where that makes a difference, and what they come to."""
    frames = locked_frames & (zero_pages.outcome != zero_pages.locked_outcome)
    rows = case.candidates.row_numbers()[np.flatnonzero(frames[case.candidates.frame])]
    rows = rows[in_locked_vma(case.snapshot, rows)]
    return rows, zero_pages.locked_outcome[case.frame_of_row[rows]]


def _per_row(case: Case, of_frame: npt.NDArray[Any], elsewhere: int) -> npt.NDArray[Any]:
    """Values per frame as those of its items; ``elsewhere`` for mappings that are none."""
    frame, rows = case.candidates.frame, case.candidates.rows
    if rows is None:
        return take(of_frame, frame)
    of_row = np.full(len(case.frame_of_row), elsewhere, of_frame.dtype)
    for piece in pieces(len(rows)):
        of_row[rows[piece]] = of_frame.take(frame[piece])
    return of_row
