"""What a kernel does that the numbers don't have, as sentences for who asks about it."""

from __future__ import annotations

import re

import numpy as np

from estimator.arrays import count_where
from estimator.ksm.case import Case
from estimator.ksm.coverage import Coverage
from estimator.ksm.features import FEATURES
from estimator.ksm.policy import Policy
from estimator.snapshot.flags import MappingFlag
from estimator.units import plural

_MANY_HOLES = 10  # for each candidate page: in an hour for 32 TiB, that is as long as it takes
_TAKES_IN_LATER_CHANGES = re.compile(r"\.el\d|-default$")  # RHEL and its kin, SUSE


def by_release(case: Case) -> str | None:
    """What only the release tells of a kernel that has more than its release says."""
    info = case.snapshot.info
    release = info.get("kernel", {}).get("release", "")
    names = info.get("features_by_release", ())
    told = [feature.answer for feature in FEATURES if feature.name in names and feature.answer]
    if not told or not _TAKES_IN_LATER_CHANGES.search(release):
        return None
    return (
        f"Only the release ({release}) tells {', '.join(told)}; but its distribution takes in "
        "changes of later kernels. With debug symbols (--symbols VMLINUX) it can be seen."
    )


def tagged(case: Case) -> str | None:
    """Of MTE, and what it does to the order of ksmd's unstable tree.

    A tagged page counts there as greater than its twin, whichever of the two is searched for. So a
    page without tags can pass by its like where a tagged page of the same bytes stands above it;
    and so can a tagged page that fork shares pass by itself: it is unshared then, not volatile.
    """
    if not case.facts.tagged.any():
        return None
    taken = case.facts.items > 0
    marked = taken & case.facts.tagged
    if not marked.any():
        return None
    plain = taken & ~marked
    text = (
        f"{plural(int(np.count_nonzero(marked)), 'candidate frame')} of memory with tags (MTE): "
        "they merge with none, not even with one of the same bytes."
    )
    hashes = case.snapshot.frames["hash"].to_numpy(np.uint64, na_value=0)
    twins = int(np.count_nonzero(np.isin(hashes[plain], hashes[marked])))
    if twins:
        text += (
            f" {plural(twins, 'frame')} without tags have the bytes of one with tags: ksmd may not "
            "find those equal, so they may not merge although they count as merged."
        )
    return text


def zero_page_tagged(case: Case, policy: Policy) -> str | None:
    """From 68d54ceeec0e (5.12, 5.10.19) to f620d66af316 (6.18, and stable releases)."""
    if not (policy.use_zero_pages and case.snapshot.info.get("zero_page_tagged")):
        return None
    return (
        "use_zero_pages does nothing here: this kernel flags its zero page as memory with tags "
        "(MTE), which no page is equal to, so zero-filled pages merge as any others do. It splits "
        "huge pages to try, which is not in these numbers."
    )


def prot_none(case: Case) -> str | None:
    """Of pages that get_mergeable_page() in mm/ksm.c can't see in the unstable tree."""
    if not case.rules.prot_none_blocks_tree:
        return None
    flags, items = case.mapping_flags, case.candidates
    pages = count_where(
        len(items.frame),
        lambda piece: (flags[items.row_numbers(piece)] & MappingFlag.PROT_NONE) != 0,
    )
    if not pages:
        return None
    return (
        f"PROT_NONE (mprotect or NUMA balancing): {plural(pages, 'candidate page')}. This kernel's "
        "ksmd can't see through them in its search tree: one of them can keep other pages from "
        "merging, which depends on the bytes of the pages and is not predicted except for the "
        "first page."
    )


def damon(case: Case) -> str | None:
    """Of folios that damon_get_folio() in mm/damon/ops-common.c holds for a moment."""
    if not case.snapshot.info.get("damon_runs"):
        return None
    return (
        "DAMON is running: it holds the page that it samples for a moment, and ksmd merges no page "
        "that is held. The numbers are those without it: where it was awake, as many folios as it "
        "has threads, and locked ones, count as not held. ksmd comes back for the page in a later "
        "scan; of a page that fork shares, single mappings may stay unmerged."
    )


def no_prctl(case: Case, policy: Policy) -> str | None:
    """Before d7597f59d1d3 (6.4)."""
    if policy.scope == "enabled" or case.rules.merge_any_prctl:
        return None
    return (
        "This kernel has no prctl(PR_SET_MEMORY_MERGE): the numbers are as if every compatible "
        "range had been given to madvise(MADV_MERGEABLE)."
    )


def holes(case: Case, coverage: Coverage) -> str | None:
    """What scan_get_next_rmap_item() looks up in vain, where it walks address by address."""
    if case.snapshot.info["features"].get("skips_holes", True):
        return None
    vmas, pages = case.snapshot.vmas, coverage.candidate_pages
    bytes_ = (vmas["end"] - vmas["start"]).to_numpy()[case.candidates.vmas]
    holes = int(bytes_.sum()) // case.rules.page_bytes - pages
    if holes < _MANY_HOLES * max(pages, 1):
        return None
    return (
        f"This kernel's ksmd looks up every page of a VMA, mapped or not (later ones jump over "
        f"holes): in each full scan {holes:,} addresses ({holes * case.rules.page_bytes >> 30:,} "
        f"GiB) besides {plural(pages, 'candidate page')}, holding the mmap_lock of their process. "
        "No time and no CPU given here has that in it: 32 TiB were seen to take more than an hour."
    )
