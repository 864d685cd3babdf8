"""The sentences of a report: verdict, coverage, why the two savings differ."""

from __future__ import annotations

from estimator.advice.borders import Borders
from estimator.advice.verdict import WORTH_IT, Savings
from estimator.ksm.coverage import Coverage
from estimator.ksm.policy import Policy, question
from estimator.ksm.prediction import Prediction
from estimator.units import count, human_bytes, percent, plural, printable

COUNTER_MEANINGS = {
    "pages_shared": "merged pages that stay: one per stable node",
    "pages_sharing": "further references to them: what the kernel counts as saved",
    "pages_unshared": "unique, but checked again and again",
    "pages_volatile": "in neither tree: changing, blocked, or sharing a frame by fork",
    "ksm_zero_pages": "zero-filled pages replaced by the kernel's zero page",
    "stable_node_chains": "contents with more copies than max_page_sharing",
    "stable_node_dups": "stable nodes that belong to these",
    "ksm_rmap_items": "pages ksmd keeps a record for",
    "general_profit": "bytes: (pages_sharing + ksm_zero_pages) less the rmap_items",
}


def scope_words(policy: Policy) -> str:
    """Who takes part, as the first words of a sentence."""
    who = chosen_words(policy) or "every process"
    words = f"With {who} as opted in now" if policy.scope == "enabled" else f"With {who} opted in"
    asked = question(policy.as_if)
    return f"{asked}? {words}" if asked else words


def chosen_words(policy: Policy) -> str:
    """Whom the selectors choose; "" for all."""
    chosen = [
        f"{word} {', '.join(printable(str(value)) for value in values)}"
        for word, values in (
            ("pid", policy.pids),
            ("program", policy.comms),
            ("cgroup", policy.cgroups),
            ("uid", policy.uids),
        )
        if values
    ]
    return " and ".join(chosen)


def verdict(policy: Policy, savings: Savings, coverage: Coverage) -> str:
    """What would be saved, net, out of what, and whether that is worth it."""
    out_of = f"{human_bytes(savings.anonymous_bytes)} of anonymous memory"
    if not savings.scanned_pages and coverage.not_read_pages == coverage.lost_pages > 0:
        return (
            f"{scope_words(policy)}, ksmd finds nothing to scan: none of the {out_of} that was "
            f"found takes part. {plural(coverage.lost_pages, 'more page')} were found in no "
            "process: whether they take part is not known."
        )
    if not savings.scanned_pages and coverage.not_read_pages:
        return (
            f"{scope_words(policy)}, what KSM would save is not known: nothing of what ksmd would "
            "scan could be read."
        )
    if not savings.scanned_pages:
        return (
            f"{scope_words(policy)}, ksmd finds nothing to scan: none of the {out_of} takes part."
        )
    if savings.net_bytes <= 0 and savings.merged_now_bytes > 0:
        return (
            f"{scope_words(policy)}, KSM would free nothing more: it saves "
            f"{human_bytes(savings.merged_now_bytes)} now, before its own records."
        )
    if savings.net_bytes <= 0:
        return (
            f"{scope_words(policy)}, KSM would cost memory: it frees "
            f"{human_bytes(savings.freed_bytes)} of {out_of} and needs "
            f"{human_bytes(savings.bookkeeping_bytes)} for its own records. Not worth turning on."
        )
    sentence = (
        f"{scope_words(policy)}, KSM would free {human_bytes(savings.net_bytes)} net: "
        f"{percent(savings.net_bytes, savings.anonymous_bytes)} of {out_of}."
    )
    if savings.merged_now_bytes:
        sentence += f" That is on top of {human_bytes(savings.merged_now_bytes)} that it saves now."
    elif not savings.worth_it:
        sentence += f" Below {WORTH_IT:.0%} it hardly pays for ksmd's CPU time."
    return sentence


def coverage_words(coverage: Coverage, page_bytes: int) -> str:
    """How much the verdict rests on."""
    if not coverage.pages:
        return "There is no page to read."
    if not coverage.not_read_pages:
        return "Every page that ksmd would visit was read."
    if coverage.pages == coverage.lost_pages:
        return (
            "They count as nothing saved and could add "
            f"{human_bytes(coverage.could_add_frames * page_bytes)} at the very most."
        )
    return (
        f"{percent(coverage.hashed_pages, coverage.pages)} of the pages that ksmd would "
        f"visit were read; the others count as nothing saved and could add "
        f"{human_bytes(coverage.could_add_frames * page_bytes)} at the very most."
    )


def smart_scan_words(prediction: Prediction) -> str:
    """What smart_scan does to the two counters of pages that did not merge; empty if it is off."""
    readings = prediction.unmerged_readings()
    if len(readings) == 1 or not sum(readings[0].values()):
        return ""
    unshared = [count(reading["pages_unshared"]) for reading in readings]
    return (
        "smart_scan is on: pages that did not merge are skipped in most scans and counted as "
        f"volatile meanwhile. pages_unshared then reads {unshared[0]} after some scans and "
        f"{unshared[-1]} after others; pages_unshared + pages_volatile is always "
        f"{count(sum(readings[0].values()))}."
    )


def why_they_differ(savings: Savings) -> str:
    """Why general_profit is not what the machine gets back."""
    reasons = []
    if savings.merged_now_pages:
        reasons.append(
            f"{count(savings.merged_now_pages)} were merged already when the snapshot was taken, "
            "and the machine has these frames back"
        )
    if savings.fork_shared_pages:
        reasons.append(
            f"{count(savings.fork_shared_pages)} are to frames that fork shares already: merging "
            "frees such a frame once, not once per process"
        )
    if savings.kept_pages:
        reasons.append(
            f"{count(savings.kept_pages)} free nothing, because another mapping of the frame "
            "stays: one that does not take part, or could not merge"
        )
    words = "general_profit counts references to merged pages, the machine gets back frames."
    if reasons:
        words += f" Of the references, {'; '.join(reasons)}."
    if savings.split_away_pages:
        words += (
            f" {count(savings.split_away_pages)} mappings of zero-filled pieces of huge pages go "
            "when ksmd splits these, which the kernel counts nowhere."
        )
    if reasons or savings.split_away_pages:
        return words
    return (
        "They agree but for the records: general_profit leaves out stable nodes, mm slots and the "
        "rounding to whole slab pages."
    )


def self_words(between: Borders) -> str:
    """Sharing inside processes against sharing between them."""
    total = between.within + between.across
    if not total:
        return "Nothing is shared."
    return (
        f"Were nothing shared between processes, {count(between.within)} of the "
        f"{plural(total, 'frame')} would become free all the same; the other "
        f"{count(between.across)} ({percent(between.across, total)}) need it."
    )
