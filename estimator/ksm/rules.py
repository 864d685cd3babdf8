"""What the snapshot's kernel does, decided by what it has, and the tunables of one what-if."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estimator.errors import CannotAnswerError
from estimator.ksm.features import FEATURES
from estimator.ksm.policy import Policy


@dataclass(frozen=True)
class Rules:
    """One kernel's KSM under one policy.

    ``max_page_sharing``, ``use_zero_pages``, ``merge_across_nodes`` and ``smart_scan`` are files
    of /sys/kernel/mm/ksm; no page is equal to a zero page that is flagged as tagged
    (memcmp_pages() in arch/arm64/kernel/mte.c), which is as if ``use_zero_pages`` were off. The
    sizes are of one slab object, in bytes. ``knows_visits``: with smart_scan, it is known which
    scans look at a page that ksmd has scanned already (``turns.py``).
    """

    max_page_sharing: int
    use_zero_pages: bool
    merge_across_nodes: bool
    smart_scan: bool
    merge_any_prctl: bool
    counts_zero_pages: bool
    fork_counts_zero_pages: bool
    checksum_before_stable_tree: bool
    split_maps_zero_page: bool
    break_cow_forgets: bool
    scans_prot_none: bool
    prot_none_blocks_tree: bool
    rmap_item_bytes: int
    stable_node_bytes: int
    mm_slot_bytes: int
    page_bytes: int
    knows_visits: bool = False

    @staticmethod
    def of(info: Mapping[str, Any], policy: Policy) -> Rules:
        """Read the rules from ``snapshot.info``; ``policy`` has its tunables filled in.

        Raises CannotAnswerError if the snapshot lacks a fact, and names the missing answer.
        """
        features = _section(info, "features", "how this kernel's KSM behaves")
        missing = [
            f"{feature.answer} ({feature.name})"
            for feature in FEATURES
            if feature.answer and feature.name not in features
        ]
        if missing:
            raise CannotAnswerError(
                f"the snapshot does not say {'; '.join(missing)}",
                hint="collect again with this version of ksm-estimator",
            )
        sizes = _section(info, "sizes", "what rmap_items and stable nodes cost")
        ksm = _section(info, "ksm", "how ksmd is set")
        kernel = _section(info, "kernel", "the page size")
        try:
            return Rules(
                max_page_sharing=int(policy.max_page_sharing or 0),
                use_zero_pages=bool(policy.use_zero_pages) and not info.get("zero_page_tagged"),
                merge_across_nodes=bool(policy.merge_across_nodes),
                smart_scan=bool(ksm.get("smart_scan")) and bool(features["smart_scan"]),
                merge_any_prctl=bool(features["merge_any_prctl"]),
                counts_zero_pages=bool(features["counts_zero_pages"]),
                fork_counts_zero_pages=bool(features.get("fork_counts_zero_pages", True)),
                checksum_before_stable_tree=bool(features["checksum_before_stable_tree"]),
                split_maps_zero_page=bool(features["split_maps_zero_page"]),
                break_cow_forgets=bool(features["break_cow_forgets"]),
                scans_prot_none=bool(features["scans_prot_none"]),
                prot_none_blocks_tree=bool(features["prot_none_blocks_tree"]),
                rmap_item_bytes=int(sizes["ksm_rmap_item"]),
                stable_node_bytes=int(sizes["ksm_stable_node"]),
                mm_slot_bytes=int(sizes["ksm_mm_slot"]),
                page_bytes=int(kernel["page_size"]),
            )
        except KeyError as error:
            raise CannotAnswerError(
                f"the snapshot does not hold {error.args[0]!r}: no saving can be computed",
                hint="collect again with this version of ksm-estimator",
            ) from error


def tunables(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The KSM settings of the snapshot's kernel; CannotAnswerError if there are none."""
    ksm = _section(info, "ksm", "how ksmd is set")
    for name in ("max_page_sharing", "use_zero_pages", "merge_across_nodes"):
        if name not in ksm:
            raise CannotAnswerError(
                f"the snapshot does not hold the kernel's {name}", hint="give it as an option"
            )
    return ksm


def _section(info: Mapping[str, Any], name: str, answer: str) -> Mapping[str, Any]:
    section = info.get(name)
    if not isinstance(section, Mapping):
        raise CannotAnswerError(
            f"the snapshot does not say {answer} (no {name!r} in snapshot.json)",
            hint="collect again with this version of ksm-estimator",
        )
    return section
