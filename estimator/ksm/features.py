"""Where kernels differ in what KSM does: the one table that all readers and the model use.

What a kernel has decides: distributions backport. Where that can't be seen, its version does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Version = tuple[int, ...]


class KernelSource(Protocol):
    """What a kernel was built from, as far as it can be seen; None: can't be seen."""

    def has_function(self, name: str) -> bool | None:
        """Whether there is the function ``name``, inlined or not."""

    def has_variable(self, name: str) -> bool | None:
        """Whether there is the variable ``name``."""

    def has_constant(self, name: str) -> bool | None:
        """Whether there is the enumerator ``name``."""

    def has_member(self, struct: str, member: str) -> bool | None:
        """Whether the struct ``struct`` has ``member``."""

    def function_parameters(self, name: str) -> int | None:
        """How many parameters the function ``name`` has; None also if there is none."""


@dataclass(frozen=True)
class Change:
    """A change of the kernel: what shows it, and the versions that have it.

    ``since``: (6, 18) is that release of kernel.org and all later ones, (6, 12, 59) the later ones
    of its stable series. ``until``: the release that took it back.
    """

    seen: Callable[[KernelSource], bool | None]
    since: tuple[Version, ...]
    until: Version | None = None

    def made(self, source: KernelSource, version: Version) -> bool:
        """Whether the kernel has it: by what is seen, else by ``version``."""
        seen = self.seen(source)
        return self._by_version(version) if seen is None else seen

    def _by_version(self, version: Version) -> bool:
        if self.until is not None and version >= self.until:
            return False
        return any(
            version >= since and (len(since) == 2 or version[:2] == since[:2])
            for since in self.since
        )


@dataclass(frozen=True)
class Feature:
    """A key of ``info["features"]``.

    ``answer``: what can't be answered without knowing it; empty: no prediction needs it.
    ``rule``: whether a kernel has it, by which changes it has.
    """

    name: str
    answer: str
    rule: Callable[[Callable[[Change], bool]], bool]


def _refuses_prot_none(source: KernelSource) -> bool | None:
    if source.has_constant("FOLL_HONOR_NUMA_FAULT"):
        return False
    if source.has_function("gup_can_follow_protnone") is False:
        return False
    parameters = source.function_parameters("gup_can_follow_protnone")
    return None if parameters is None else parameters == 1


def _splits_to_zero(source: KernelSource) -> bool | None:
    seen = source.has_member("rmap_walk_arg", "map_unused_to_zeropage")
    return source.has_function("try_to_map_unused_to_zeropage") if seen is None else seen


def _counts_forks(source: KernelSource) -> bool | None:
    """ksm_fork() is inlined: f5548c318d6f shows it, which every series took in soon after it."""
    if source.has_variable("ksm_zero_pages") is False:
        return False
    return source.has_function("ksm_next_page_pmd_entry") or None


def _counts_each(source: KernelSource) -> bool | None:
    """In the body of ksm_do_scan(): what came later shows it."""
    if source.has_variable("ksm_zero_pages") is False:  # of the same release as the counter
        return False
    later = ("ksm_next_page_pmd_entry", "folio_walk_start")
    return any(source.has_function(name) for name in later) or None


# PR_SET_MEMORY_MERGE (d7597f59d1d3)
_PRCTL = Change(lambda s: s.has_function("ksm_enable_merge_any"), ((6, 4),))
# e2942062e01d
_ZERO_COUNTER = Change(lambda s: s.has_variable("ksm_zero_pages"), ((6, 6),))
# a child's zero pages are counted (4d6fc29f3634)
_FORK_COUNTS = Change(_counts_forks, ((6, 18), (6, 17, 4), (6, 12, 54), (6, 6, 113)))
# ksm_pages_scanned is of single pages (730cdc2c72c6): before, of whole batches, one more in each,
# and never of a scan's last one
_COUNTS_EACH = Change(_counts_each, ((6, 10), (6, 9, 5), (6, 6, 34)))
# 5e924ff54d08
_SMART_SCAN = Change(lambda s: s.has_variable("ksm_smart_scan"), ((6, 7),))
# 4e5fa4f5eff6
_ADVISOR = Change(lambda s: s.has_variable("ksm_advisor"), ((6, 8),))
# a page must be unchanged before even the stable tree is searched; the same series made this a
# function of its own
_CHECKSUM_FIRST = Change(lambda s: s.has_function("try_to_merge_with_zero_page"), ((6, 11),))
# splitting a folio maps its zero-filled subpages to the zero page (b1f202060afe, mm/migrate.c)
_SPLIT_TO_ZERO = Change(_splits_to_zero, ((6, 12),))
# the scan has a walker of its own (f5548c318d6f)
_RANGE_WALK = Change(
    lambda s: s.has_function("ksm_next_page_pmd_entry"),
    (
        *((6, 18), (6, 17, 9), (6, 12, 59), (6, 6, 121)),
        *((6, 1, 161), (5, 15, 199), (5, 10, 249)),
    ),
)
# instead of follow_page(), in the scan and for the tree side
_FOLIO_WALK = Change(lambda s: s.has_function("folio_walk_start"), ((6, 12),))
# follow_page() refuses PROT_NONE entries: since 474098edac26, until it did so with
# FOLL_HONOR_NUMA_FAULT only, which KSM does not set (d74943a2f3cd)
_REFUSES_PROT_NONE = Change(_refuses_prot_none, ((6, 1),), until=(6, 5))
# remembers the page of the mapping of a merged item where age and checksum stand before
_FORGETS = Change(lambda s: s.has_member("ksm_rmap_item", "linear_page_index"), ((7, 3),))
# khugepaged collapses to anonymous folios of any order from 2 on that is enabled, before to huge
# pages only
_ANY_ORDER = Change(lambda s: s.has_function("anon_hpage_enabled"), ((7, 2),))

FEATURES = (
    Feature(
        "merge_any_prctl",
        "whether a process can opt in as a whole (PR_SET_MEMORY_MERGE)",
        lambda has: has(_PRCTL),
    ),
    Feature(
        "counts_zero_pages",
        "ksm_zero_pages and general_profit",
        lambda has: has(_ZERO_COUNTER),
    ),
    Feature("fork_counts_zero_pages", "", lambda has: has(_FORK_COUNTS)),
    Feature("counts_each_scanned_page", "", lambda has: has(_COUNTS_EACH)),
    Feature("smart_scan", "what pages_unshared shows at rest", lambda has: has(_SMART_SCAN)),
    Feature("advisor", "", lambda has: has(_ADVISOR)),
    Feature("khugepaged_any_order", "", lambda has: has(_ANY_ORDER)),
    Feature("skips_holes", "", lambda has: has(_RANGE_WALK)),
    Feature(
        "checksum_before_stable_tree",
        "the order in which pages join stable nodes",
        lambda has: has(_CHECKSUM_FIRST),
    ),
    Feature(
        "split_maps_zero_page",
        "what becomes of zero-filled pieces of huge pages",
        lambda has: has(_SPLIT_TO_ZERO),
    ),
    Feature(  # an item whose merge was undone starts again, as if it were new
        "break_cow_forgets",
        "whether a page that can't be merged keeps others from it for ever",
        lambda has: has(_FORGETS),
    ),
    Feature(
        "scans_prot_none",
        "whether PROT_NONE pages are candidates",
        lambda has: has(_RANGE_WALK) or has(_FOLIO_WALK) or not has(_REFUSES_PROT_NONE),
    ),
    Feature(  # the scan finds them, get_mergeable_page() does not
        "prot_none_blocks_tree",
        "whether PROT_NONE pages keep others from merging",
        lambda has: has(_RANGE_WALK) and not has(_FOLIO_WALK) and has(_REFUSES_PROT_NONE),
    ),
)


def about_features(source: KernelSource, release: str) -> dict[str, Any]:
    """``info["features"]`` and ``info["features_by_release"]`` of the kernel ``release``.

    ``release``: of kernel.org, if that is known. The second are the features that rest on it, since
    what would show them can't be seen: a change of a later kernel that a distribution took in would
    go unnoticed.
    """
    version, unseen = version_of(release), set()

    def has(change: Change) -> bool:
        if change.seen(source) is None:
            unseen.add(feature.name)
        return change.made(source, version)

    features = {}
    for feature in FEATURES:
        features[feature.name] = feature.rule(has)
    return {"features": features, "features_by_release": sorted(unseen)}


def debian_release(version: str) -> str | None:
    """The release of kernel.org that Debian names in ``uname -v``; None if it is not Debian's."""
    found = re.search(r"Debian (\d+\.\d+\.\d+)", version)
    return found[1] if found else None


def version_of(release: str) -> Version:
    """(6, 12, 117) of "6.12.117+deb12-cloud-amd64"."""
    numbers = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)
