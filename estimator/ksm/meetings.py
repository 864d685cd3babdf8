"""How the items of each content meet, and which rule of ``closed_forms`` that makes hold."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers, alike, each_piece, numbers_where, pieces
from estimator.ksm.case import Case
from estimator.ksm.frames import NEVER, distinct


@dataclass(frozen=True)
class Meeting:
    """Per content: its ``items``; ``second``: the row of q, see ``closed_forms``.

    ``first_blocked``: the first item can't be merged.
    ``nodes``: live stable nodes; ``on_nodes``: items on them; ``node_frame``: a node's frame.
    ``undecided``: items that can't be told apart frame by frame.

    To be read alone: one that is the same of all contents may be a single number in memory.
    """

    items: Numbers
    second: Numbers
    first_blocked: Mask
    nodes: Numbers
    on_nodes: Numbers
    node_frame: Numbers
    undecided: Mask


def meetings(case: Case) -> Meeting:
    """Rows ``second`` are those of the second frames, but for odd frames."""
    facts, contents, count = case.facts, case.contents, len(case.contents)
    starts, order = contents.starts, contents.order
    items, second = np.empty(count, np.int32), np.full(count, NEVER, dtype=np.int32)
    first_blocked, some_blocked = np.empty(count, np.bool_), facts.blocked.any()

    def meet(piece: slice) -> None:
        begins, end = starts[piece], starts[piece.stop]
        of_frame = facts.items.take(order[begins[0] : end])
        items[piece] = np.add.reduceat(of_frame, begins - begins[0], dtype=np.int32)
        first_blocked[piece] = some_blocked and facts.blocked.take(order.take(begins))
        several = np.diff(starts[piece.start : piece.stop + 1]) > 1
        second[piece][several] = facts.first.take(order.take(begins[several] + 1))

    each_piece(count, meet)
    m = Meeting(
        items=items,
        second=second,
        first_blocked=alike(first_blocked),
        nodes=np.broadcast_to(np.int32(0), count),
        on_nodes=np.broadcast_to(np.int32(0), count),
        node_frame=np.broadcast_to(np.int32(-1), count),
        undecided=np.broadcast_to(np.False_, count),
    )
    odd = [
        mask
        for mask in (facts.blocked, facts.node, facts.maybe_blocked, facts.opaque)
        if mask.any()
    ]
    if not odd:
        return m
    chosen = distinct(contents.of_frame[facts.known & np.logical_or.reduce(odd)])
    if not len(chosen):
        return m
    nodes, on_nodes = m.nodes.copy(), m.on_nodes.copy()
    node_frame, undecided = m.node_frame.copy(), m.undecided.copy()
    for piece in pieces(len(chosen)):
        some = chosen[piece]
        frame, begin, of = contents.frames_of(some)
        skip = facts.blocked[frame] | (frame == first_frame(case, some)[of])
        second[some] = np.minimum.reduceat(np.where(skip, NEVER, facts.first[frame]), begin)
        nodes[some] = np.add.reduceat(facts.node[frame], begin, dtype=np.int32)
        on_nodes[some] = np.add.reduceat(facts.on_node[frame], begin)
        node_frame[some] = np.maximum.reduceat(np.where(facts.node[frame], frame, -1), begin)
        strange = (facts.maybe_blocked[frame] | facts.opaque[frame]) & (facts.items[frame] > 0)
        undecided[some] = np.logical_or.reduceat(strange, begin)
    return replace(m, nodes=nodes, on_nodes=on_nodes, node_frame=node_frame, undecided=undecided)


class Kind(enum.IntEnum):
    """What rule of ``closed_forms`` holds for a content (u8), in the order of its list."""

    ELSEWHERE = 0  # no items, or solved by other rules
    LONELY = 1  # no q
    FIRST_BLOCKED = 2  # for ever
    OVERTAKEN = 3  # the first is blocked, others meet
    FITS = 4  # N <= max_page_sharing
    CROWDED = 5  # N > max_page_sharing
    AT_REST = 6  # all on stable nodes
    ONE_NODE = 7  # with room
    OPEN = 8
    APART = 9  # smart_scan never looks at two of its pages in one scan


def kinds_of(case: Case, m: Meeting, elsewhere: Mask) -> npt.NDArray[np.uint8]:
    """The ``Kind`` of each content: the first that fits. A crowded one may still be open."""
    found = np.empty(len(m.items), np.uint8)

    def decide(piece: slice) -> None:
        items, nodes, on_nodes = m.items[piece], m.nodes[piece], m.on_nodes[piece]
        fresh, room = nodes == 0, items <= case.rules.max_page_sharing
        conditions = {
            Kind.ELSEWHERE: elsewhere[piece] | (items == 0),
            Kind.LONELY: fresh & (m.second[piece] == NEVER),
            Kind.AT_REST: ~fresh & (on_nodes == items),
            Kind.OPEN: m.undecided[piece],
            Kind.FIRST_BLOCKED: fresh & m.first_blocked[piece],
            Kind.FITS: fresh & room,
            Kind.CROWDED: fresh,
            Kind.ONE_NODE: (nodes == 1) & (on_nodes > 0) & room,
        }
        kinds = [np.uint8(kind) for kind in conditions]
        found[piece] = np.select(list(conditions.values()), kinds, default=np.uint8(Kind.OPEN))

    each_piece(len(found), decide)
    return found


def of_kind(kind: npt.NDArray[np.uint8], wanted: Kind) -> Numbers:
    """The contents (i32) that are of the ``wanted`` kind."""
    return numbers_where(kind == wanted, np.empty)


def first_frame(case: Case, chosen: Ints | Numbers) -> Numbers:
    """The frame of the first item of each of the contents."""
    return case.contents.order.take(case.contents.starts[chosen])


def first_rows(case: Case, chosen: Numbers) -> Numbers:
    return case.facts.first.take(first_frame(case, chosen))
