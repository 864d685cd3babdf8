"""What a simulation of ksmd is given, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Bytes, Ints, Mask
from estimator.ksm.readings import Readings


@dataclass(frozen=True)
class Items:
    """Candidate mappings in scan order, one entry of every array per item.

    ``row``: the place in the scan. ``content``: small numbers from 0. ``frame``: frame_id.
    ``folio``: number of the folio if it is large, else -1. ``zero``: its content is zeroes.
    ``blocked``: it can't be write-protected (``mergeable.py``). ``locked``: a split of its folio
    does not map the zero page here. ``opaque``: the tree search can't get its page
    (``Rules.prot_none_blocks_tree``). ``on_node``: it is on a stable node already. ``visits``: of
    full scans to it, see ``mappings.visits``.
    """

    row: Ints
    content: Ints
    frame: Ints
    folio: Ints
    zero: Mask
    blocked: Mask
    locked: Mask
    opaque: Mask
    on_node: Mask
    visits: Bytes

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Frames:
    """What a simulation has to know about frames and folios before the first scan.

    ``other_mappings``: of a frame_id, how many mappings it has besides the items.
    ``nodes``: the KSM frames of stable nodes, a list per content, in the kernel's order of search.
    ``orphans``: KSM frames without stable node.
    ``pinned_folios``: can't be split. ``splits``: (row, folio) in order of row: contents outside
    the simulation split this folio when the second full scan is at ``row``. ``closed_trees``:
    contents whose searches of the unstable tree give up at its root.
    """

    other_mappings: dict[int, int]
    nodes: dict[int, list[int]]
    pinned_folios: frozenset[int]
    splits: Sequence[tuple[int, int]]
    orphans: frozenset[int] = frozenset()
    closed_trees: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Simulation:
    """The state at rest, and when what happened.

    ``outcome`` (u8 ``Outcome``) and ``stable_frame`` (i64: frame_id of the KSM frame, -1 unless
    MERGED) per item. ``copied``: items for which break_cow() made a copy of their frame that is
    still mapped; if that copy is the KSM frame, it goes by the frame_id of the original, which can
    have no stable node of its own. ``orphans``: frames that are KSM pages without a stable node.
    ``split_folios``: split by these items. ``scans``: full scans until the counters stay the same.

    Full scans are counted from 1, and 0 means never: ``settled_in``: per item, when it joined its
    node or its page vanished; ``freed_in``: per item, when its rmap_item was freed. ``splits``: of
    each split folio, the scan and the row at which it was. ``copies_made_in``, ``copies_freed_in``:
    a scan per copy made by break_cow(), and per copy that is not mapped any more. ``readings``:
    what each scan showed. ``blocked_from``: the row of a scan from which on searches of the
    unstable tree can meet an item whose page has gone.
    """

    outcome: npt.NDArray[np.uint8]
    stable_frame: Ints
    copied: Ints
    orphans: frozenset[int]
    split_folios: frozenset[int]
    scans: int
    settled_in: Ints
    freed_in: Ints
    splits: dict[int, tuple[int, int]]
    copies_made_in: Ints
    copies_freed_in: Ints
    readings: Readings
    blocked_from: dict[int, int]
