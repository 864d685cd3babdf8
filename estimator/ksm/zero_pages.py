"""Zero-filled pages, where ksmd treats them apart.

With ``use_zero_pages`` they are replaced by the kernel's zero page, without a partner. In kernels
whose split_huge_page() maps the zero page for zero-filled pieces of an anonymous folio
(try_to_map_unused_to_zeropage() in mm/migrate.c), such a piece is gone as soon as ksmd tries to
merge it, or anything else of its folio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Mask, Numbers
from estimator.ksm.contents import Contents, per_frame
from estimator.ksm.frames import NEVER, FrameFacts
from estimator.ksm.prediction import Outcome
from estimator.ksm.rules import Rules


def zero_contents_apart(contents: Contents, facts: FrameFacts, rules: Rules) -> Mask:
    """Bool per content: zero-filled and not simply a content like any other."""
    apart = np.zeros(len(contents), dtype=bool)
    zero = facts.zero & facts.known
    if rules.use_zero_pages or (zero & can_vanish(facts, rules) & (facts.items > 0)).any():
        apart[contents.of_frame[zero]] = True
    return apart


def can_vanish(facts: FrameFacts, rules: Rules) -> Mask:
    """Bool per frame: a split of its folio replaces its unlocked mappings by the zero page.

    To be read alone.
    """
    if not rules.split_maps_zero_page or facts.folio.max(initial=-1) < 0:
        return np.broadcast_to(np.False_, len(facts.items))
    return facts.zero & facts.known & (facts.folio >= 0) & ~facts.pinned & ~facts.mlocked


@dataclass(frozen=True)
class FewItems:
    """The items that decide what happens to the zero-filled content, and those that follow.

    ``frames``: bool per frame, all of its items count. ``rows``: single items that count besides.
    ``follow``: bool per frame, the other items of it share the fate of the folio: gone if it is
    split, volatile if not.
    """

    frames: Mask
    rows: Numbers
    follow: Mask


def deciding_items(facts: FrameFacts, apart: Mask, has_locked_item: Mask, rules: Rules) -> FewItems:
    """Reduce the zero-filled pieces of whole folios to two items per folio.

    ``apart``: bool per frame. ``has_locked_item``: bool per frame, an item of it is in a VM_LOCKED
    VMA. Exact, because of an unsplit folio that can vanish only two items can ever matter in one
    scan: the first one either is attempted, and takes all the others with it; or it becomes the
    tree item (cmp_and_merge_page() finds neither stable node nor tree item), and then the first
    item on another zero-filled frame of the folio splits it from under both; or the tree item's
    page has gone, and then no item of the content does anything in this scan.
    """
    follow = apart & can_vanish(facts, rules) & (facts.items > 0)
    if follow.any() and has_locked_item.any():
        locked_folios = np.unique(facts.folio[has_locked_item & (facts.folio >= 0)])
        follow &= ~np.isin(facts.folio, locked_folios)
    frame = np.flatnonzero(follow)
    frame = frame[np.lexsort((facts.first[frame], facts.folio[frame]))]
    folio = facts.folio[frame]
    is_first = np.append(True, folio[1:] != folio[:-1])[: len(folio)]
    is_second = np.append(False, is_first[:-1])[: len(folio)] & ~is_first
    rows = facts.first[frame[is_first | is_second]]
    return FewItems(frames=apart & ~follow & (facts.items > 0), rows=np.sort(rows), follow=follow)


@dataclass(frozen=True)
class ZeroPages:
    """What use_zero_pages does. ``outcome``: u8 per frame, for its items outside VM_LOCKED VMAs.

    ``locked_outcome``: of those in VM_LOCKED VMAs. ``unshared`` and ``split``: like those of
    ``ClosedForms``.
    """

    outcome: npt.NDArray[np.uint8]
    locked_outcome: npt.NDArray[np.uint8]
    unshared: Numbers
    split: Numbers


def use_zero_pages(contents: Contents, facts: FrameFacts, apart: Mask, rules: Rules) -> ZeroPages:
    """try_to_merge_with_zero_page() for the zero-filled contents ``apart`` (bool per content).

    Every item that can be merged is replaced in scan 2, whatever the others do. If the split of
    its folio takes its mapping first, the replacement fails and is not counted. Of what can't be
    merged, the first item waits in the unstable tree.
    """
    frames = per_frame(apart, contents) & (facts.items > 0)
    mergeable = frames & ~facts.blocked
    outcome = np.where(mergeable, Outcome.ZERO_PAGE, Outcome.VOLATILE).astype(np.uint8)
    locked_outcome = outcome.copy()
    outcome[mergeable & can_vanish(facts, rules)] = Outcome.SPLIT_AWAY
    split = np.where(mergeable & (facts.folio >= 0), facts.first, np.int32(NEVER))
    held = np.flatnonzero(frames & facts.blocked)
    first = np.full(len(contents), NEVER, dtype=np.int32)
    np.minimum.at(first, contents.of_frame[held], facts.first[held])
    return ZeroPages(outcome, locked_outcome, first[first != NEVER], split)
