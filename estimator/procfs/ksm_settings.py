"""How KSM is set, from sysfs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from estimator.procfs.page_size import PAGE_BYTES

_KSM = Path("/sys/kernel/mm/ksm")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "ksm_zero_pages", "pages_scanned"),
    *("stable_node_chains", "stable_node_dups", "pages_skipped", "full_scans"),
)
_NOT_SETTINGS = (*_COUNTERS, "pages_volatile", "general_profit")


def read_settings() -> dict[str, Any]:
    """``info["ksm"]``: tunables, and counters in pages, of /sys/kernel/mm/ksm."""
    values: dict[str, int] = {}
    for path in sorted(_KSM.iterdir()):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if path.name == "advisor_mode":
            values[path.name] = int("[scan-time]" in text)
        elif re.fullmatch(r"-?\d+", text):
            values[path.name] = int(text)
    settings: dict[str, Any] = {k: v for k, v in values.items() if k not in _NOT_SETTINGS}
    settings.setdefault("merge_across_nodes", 1)
    settings.setdefault("use_zero_pages", 0)
    counters = {name: values[name] for name in _COUNTERS if name in values}
    items = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
    counters["ksm_rmap_items"] = sum(values.get(name, 0) for name in items)
    return settings | {"counters": counters}


def thp_enabled() -> str:
    """``info["thp_enabled"]``."""
    try:
        return _THP.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "never"


def thp_orders() -> dict[str, int] | None:
    """``info["thp_orders"]``; None before 6.8."""
    orders = {"always": 0, "madvise": 0, "inherit": 0}
    files = sorted(_THP.parent.glob("hugepages-*kB/enabled"))
    for file in files:
        kib = int(file.parent.name.removeprefix("hugepages-").removesuffix("kB"))
        mode = file.read_text().partition("[")[2].partition("]")[0]
        if mode in orders:
            orders[mode] |= (kib << 10) // PAGE_BYTES
    return orders if files else None
