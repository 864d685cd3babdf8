"""What a reader has to know before trusting a number, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.ksm import kernel_caveats
from estimator.ksm.accounting import perhaps_lone_dups, seen_before, unseen_pieces
from estimator.ksm.as_if import assumptions
from estimator.ksm.candidates import on_ksmds_list
from estimator.ksm.case import Case
from estimator.ksm.coverage import Coverage
from estimator.ksm.credits import Freed
from estimator.ksm.fate import Fate
from estimator.ksm.frames import distinct
from estimator.ksm.khugepaged import Bounds
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Outcome
from estimator.ksm.unmerge import zero_pages_given_back
from estimator.ksm.zero_counters import counts_and_mappings
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.stored_table import in_pieces
from estimator.units import human_bytes, plural

_MOVING = 100  # of so many pages one may come or go while they are read


@dataclass(frozen=True)
class OtherLooks:
    """What looks at other moments say of the candidates.

    ``compared_pages``: mappings that they could compare. ``freed_if_still_frames``: what would
    become free if no page changed; None: none did. ``changed_before_pages``: mappings that changed
    between earlier looks only; ``freed_of_still_frames``: what would become free without these as
    well; None: there are none.
    """

    compared_pages: int
    freed_if_still_frames: int | None
    changed_before_pages: int
    freed_of_still_frames: int | None

    def moved_frames(self, freed_frames: int) -> int | None:
        """Of what would become free if nothing changed, what moved; ``freed_frames``: what does."""
        if not self.compared_pages:
            return None
        if self.freed_if_still_frames is None:
            return 0
        least = self.freed_of_still_frames
        return self.freed_if_still_frames - (freed_frames if least is None else least)


@dataclass(frozen=True)
class Told:
    """How the question was put: with other looks; with settings that need a fresh start."""

    looks: OtherLooks | None = None
    starts_over: bool = False


def warnings(
    case: Case,
    policy: Policy,
    fate: Fate,
    freed: Freed,
    coverage: Coverage,
    khugepaged: Bounds | None,
    told: Told,
) -> list[str]:
    """The warnings that apply, most important first."""
    few_unknown = (coverage.hashed_share or 0) >= 0.99
    found = [
        *assumptions(case.snapshot.info, policy),
        *case.snapshot.info.get("source", {}).get("warnings", ()),
        _part_of_host(case),
        _lost(case),
        None if few_unknown else _unknown(coverage),
        _perhaps_merged(case),
        _perhaps_orphans(case),
        _starts_over(told),
        _zero_pages_given_back(case, told),
        kernel_caveats.by_release(case),
        kernel_caveats.prot_none(case),
        kernel_caveats.damon(case),
        kernel_caveats.tagged(case),
        kernel_caveats.zero_page_tagged(case, policy),
        _order(case, policy, fate),
        _perhaps_lone_dups(case, fate),
        str(khugepaged) if khugepaged else None,
        kernel_caveats.no_prctl(case, policy),
        kernel_caveats.holes(case, coverage),
        _seen_before(case, told),
        _kept_apart(case, fate),
        _counted_otherwise(case),
        _uncounted_zero_pages(case, fate),
        _unseen_pieces(case, fate),
        _kept_by_swap(case, freed),
        _changing(case, coverage, told),
        _unknown(coverage) if few_unknown else None,
    ]
    return [text for text in found if text]


def warnings_without_contents(
    case: Case, policy: Policy, coverage: Coverage, told: Told
) -> list[str]:
    """Those of the warnings that apply where no content is known, most important first."""
    missing = _page_tables(coverage)
    found = [
        *case.snapshot.info.get("source", {}).get("warnings", ()),
        _part_of_host(case),
        _lost(case),
        f"{missing[0].upper()}{missing[1:]}: each counts as if it could be freed."
        if missing
        else None,
        _starts_over(told),
        kernel_caveats.by_release(case),
        kernel_caveats.no_prctl(case, policy),
        kernel_caveats.holes(case, coverage),
    ]
    return [text for text in found if text]


def _part_of_host(case: Case) -> str | None:
    part = case.snapshot.info.get("part_of_host")
    if not part:
        return None
    return (
        f"This is what one pid namespace (a container) shows: {part['threads']} of the host's "
        f"{part['host_threads']} threads. ksmd works on the whole host; what it would merge of and "
        "with the others is not in these numbers."
    )


def _lost(case: Case) -> str | None:
    """What the kernel's own data says was there; whose pages it had can't be said."""
    unknown = case.snapshot.info.get("unknown", {})
    names = {
        "processes": ("process", ""),
        "vmas": ("VMA", ""),
        "stable_nodes": ("node", " of the stable tree"),
        "rmap_lists": ("process", " whose list of rmap_items is not whole"),
        "anonymous_pages": ("anonymous page", " that processes are charged for"),
    }
    lost = [
        plural(unknown[key], noun) + of for key, (noun, of) in names.items() if unknown.get(key)
    ]
    if not lost:
        return None
    unread = case.snapshot.info.get("unreadable_processes", [])
    some = f" (among them {', '.join(unread[:5])})" if unread else ""
    return f"Not found or not readable: {', '.join(lost)}{some}."


def _perhaps_merged(case: Case) -> str | None:
    frames = case.snapshot.info.get("unknown", {}).get("perhaps_ksm_frames")
    if not frames:
        return None
    return (
        f"Of {plural(frames, 'frame')} it is not known whether ksmd has merged them already (this "
        "kernel's /proc/kpageflags does not say it): they are taken for pages that it has not."
    )


def _perhaps_orphans(case: Case) -> str | None:
    """KSM pages without a stable node, where the stable tree was not read (``seen_nodes.py``).

    ksm_pages_shared counts nodes with items: a moving system may differ by a few.
    """
    info = case.snapshot.info
    shared = info["ksm"].get("counters", {}).get("pages_shared")
    if shared is None or "stable_nodes" not in info.get("not_known", {}):
        return None
    pages = int(np.count_nonzero(case.facts.ksm))
    if (pages - shared) * _MOVING <= pages:
        return None
    return (
        f"{plural(pages, 'KSM page')} were found, and ksmd counts {shared:,} with a node in its "
        "tree: the others may be given up, and then they never merge. Which these are /proc does "
        "not say; they are taken for pages of nodes, so less may merge."
    )


def _unknown(coverage: Coverage) -> str | None:
    parts = []
    if coverage.unknown_pages:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in coverage.unknown_by_reason.items())
        parts.append(
            f"{coverage.unknown_pages:,} of "
            f"{plural(coverage.candidate_pages, 'candidate mapping')} could not be read ({reasons})"
        )
    if missing := _page_tables(coverage):
        parts.append(missing)
    text = ", and ".join(parts)
    return f"{text[:1].upper()}{text[1:]}: they are in no counter." if parts else None


def _page_tables(coverage: Coverage) -> str:
    if not coverage.page_table_missing_pages:
        return ""
    return (
        f"the page tables of {plural(coverage.page_table_missing_pages, 'page')} of candidate VMAs "
        "are missing or kept changing"
    )


def _starts_over(told: Told) -> str | None:
    if not told.starts_over:
        return None
    return (
        "The kernel refuses to change max_page_sharing or merge_across_nodes while pages are "
        "merged: the numbers, savings included, are as if all had been unmerged before "
        "(echo 2 > /sys/kernel/mm/ksm/run)."
    )


def _zero_pages_given_back(case: Case, told: Told) -> str | None:
    """See ``zero_pages_given_back``."""
    pages = zero_pages_given_back(case.snapshot) if told.starts_over else 0
    if not case.rules.counts_zero_pages or not pages:
        return None
    text = (
        f"Unmerging gives {plural(pages, 'zero page')} that ksmd placed pages of their own, "
        f"{pages * case.rules.page_bytes / 2**20:,.1f} MiB. "
    )
    if case.rules.use_zero_pages:
        return text + (
            "ksmd places all of them again: ksm_zero_pages has them, and the frames that become "
            "free, which are without them, are so many more."
        )
    return text + (
        "Without use_zero_pages these merge as any others do. Where they are is not in a snapshot: "
        "they are counted as the zero pages that they are now, while the kernel will have them in "
        "pages_shared, pages_sharing and ksm_rmap_items; the frames that become free are without "
        "them."
    )


def _changing(case: Case, coverage: Coverage, told: Told) -> str | None:
    if not coverage.candidate_pages:
        return None
    looks, compared, total = told.looks, coverage.compared_pages, coverage.candidate_pages
    if not looks or not compared:
        why = "One snapshot" if compared is None else "Another look that has none of these pages"
        return (
            f"{why} can't tell which pages keep changing: those never merge, so pages_shared "
            "and pages_sharing are upper bounds."
        )
    text = (
        f"{compared:,} of {total:,} candidate mappings could be compared with another look, "
        f"{coverage.changed_pages:,} changed or were new and are taken to keep changing: they "
        "count as volatile."
    )
    if looks.changed_before_pages:
        text += (
            f" {looks.changed_before_pages:,} more changed between earlier looks only: they count "
            "as they were at the last one."
        )
    moved, still = coverage.moved_frames or 0, looks.freed_if_still_frames
    if moved > 0 and still:
        mib = moved * case.rules.page_bytes / 2**20
        text += (
            f" With them, {moved / still:.1%} of what would become free if nothing changed moved "
            f"between the looks ({moved:,} of {still:,} frames, {mib:,.1f} MiB)"
            + (": it counts as not saved." if looks.freed_of_still_frames is None else ".")
        )
    if compared < total:
        text += " Which of the others keep changing is not known: if some do, fewer pages merge."
    if not case.rules.checksum_before_stable_tree:
        text += (
            " This kernel merges a changing page all the same while it equals a KSM page, until "
            "the next write."
        )
    return text


def _order(case: Case, policy: Policy, fate: Fate) -> str | None:
    if not len(fate.simulated):
        return None
    frames = case.frame_of_row[fate.simulated]
    contents = len(distinct(case.contents.of_frame[frames]))
    text = (
        f"The order in which ksmd scans decides for {plural(contents, 'content')} on "
        f"{plural(len(fate.simulated), 'mapping')} (more copies than max_page_sharing, shared by "
        "fork, pinned or zero-filled), simulated in that order. "
    )
    unlisted = ~on_ksmds_list(case.snapshot)
    if policy.scope == "all" and (unlisted & case.candidates.mms).any():
        text += (
            "For processes that are not on ksmd's list yet the order of their start is taken; "
            "opting in in another order can change pages_shared, pages_sharing, pages_unshared "
            "and pages_volatile by these pages."
        )
    return text.rstrip()


def _perhaps_lone_dups(case: Case, fate: Fate) -> str | None:
    chains = perhaps_lone_dups(case, fate)
    if not chains:
        return None
    return (
        f"{plural(chains, 'chain')} of stable nodes came down to one node each: ksmd does away "
        "with the chain when a search passes by, which depends on the bytes of all pages. It is "
        "taken to; stable_node_chains and stable_node_dups may be so many more."
    )


def _seen_before(case: Case, told: Told) -> str | None:
    """should_skip_rmap_item() in mm/ksm.c, by the age of an rmap_item."""
    rules = case.rules
    if not rules.smart_scan or rules.knows_visits or told.starts_over or not seen_before(case):
        return None
    why = (
        "a course of scans does not follow that"
        if "visits" in case.snapshot.mappings
        else "in which is not in this snapshot"
    )
    return (
        "ksmd has scanned before, with smart_scan: an unmerged page that it knows is looked at in "
        f"one scan of nine, and {why}. Where all is taken to be new, one "
        "page that comes later may in fact never meet the one old page that it is equal to, and an "
        "old page that can't be merged may not keep two later ones from merging."
    )


def _counted_otherwise(case: Case) -> str | None:
    found = counts_and_mappings(case)
    if found is None:
        return None
    counted, there = found
    return (
        f"The kernel counts {plural(counted, 'zero page')} that ksmd placed, and {there:,} are "
        "mapped: fork copies them past the counters before 6.18, and counters past a wiped VMA. "
        "ksm_zero_pages and general_profit go on from what is counted; the saving is of what is."
    )


def _kept_apart(case: Case, fate: Fate) -> str | None:
    """See ``turns.py``."""
    if not fate.kept_apart:
        return None
    return (
        f"smart_scan keeps {plural(fate.kept_apart, 'page')} from merging "
        f"({human_bytes(fate.kept_apart * case.rules.page_bytes)}): they came in other full scans "
        "than the pages that they are equal to, and ksmd skips the one whenever it looks at the "
        "other. With smart_scan 0 for two full scans they merge."
    )


def _uncounted_zero_pages(case: Case, fate: Fate) -> str | None:
    pages = int(np.count_nonzero(fate.outcome == Outcome.ZERO_PAGE))
    if case.rules.counts_zero_pages or not pages:
        return None
    return (
        f"The zero page replaces {plural(pages, 'zero-filled page')}; this kernel has no counter "
        "for that: it is in the physical saving only."
    )


def _unseen_pieces(case: Case, fate: Fate) -> str | None:
    pieces = unseen_pieces(case)[fate.split]
    if not pieces.any():
        return None
    return (
        f"ksmd would split large folios with {int(pieces.sum()):,} "
        "pages that no process was found to map. Whether others map them is not known: if nobody "
        "does, the split frees them, too; the saving is without them."
    )


def _kept_by_swap(case: Case, freed: Freed) -> str | None:
    """folio_free_swap() in mm/swapfile.c, for replace_page() in mm/ksm.c.

    It leaves a folio in the swap cache whose slot other page tables still refer to. Which slot that
    is no snapshot says.
    """
    swapped = int(case.snapshot.vmas["swap_pages"].sum())
    if not swapped:
        return None
    cached = sum(
        int(np.count_nonzero(some["flags"].to_numpy()[freed.gone[piece]] & FrameFlag.SWAPCACHE))
        for piece, some in in_pieces(case.snapshot.frames, ("flags",))
    )
    if not cached:
        return None
    return (
        f"Of the frames that become free, up to {min(cached, swapped):,} may stay in the swap "
        "cache until memory is reclaimed: those of which other mappings are swapped out, as after "
        f"a fork ({plural(swapped, 'page')} are, in all)."
    )
