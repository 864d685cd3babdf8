"""How KSM is set, from sysfs; and what this kernel's KSM does, from its release."""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path
from typing import Any

_KSM = Path("/sys/kernel/mm/ksm")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_UBUNTU = Path("/proc/version_signature")
_COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "ksm_zero_pages", "pages_scanned"),
    *("stable_node_chains", "stable_node_dups", "pages_skipped", "full_scans"),
)
_NOT_SETTINGS = (*_COUNTERS, "pages_volatile", "general_profit")
_SINCE = {
    "merge_any_prctl": (6, 4),
    "counts_zero_pages": (6, 6),
    "smart_scan": (6, 7),
    "advisor": (6, 8),
    "checksum_before_stable_tree": (6, 11),
    "split_maps_zero_page": (6, 12),
}


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


def features(release: str) -> dict[str, bool]:
    """``info["features"]`` (see ``estimator.kernel.ksm_settings``), by ``upstream_release``."""
    version = _version(release)
    found = {name: version[:2] >= since for name, since in _SINCE.items()}
    found["smart_scan"] = (_KSM / "smart_scan").exists()
    range_walk = version >= (6, 18) or (version[:2] == (6, 12) and version >= (6, 12, 59))
    range_walk |= version[:2] == (6, 1) and version >= (6, 1, 161)
    folio_walk = version[:2] >= (6, 12)
    return found | {
        "scans_prot_none": range_walk or folio_walk or version[:2] >= (6, 6),
        "prot_none_blocks_tree": range_walk and not folio_walk,
    }


def upstream_release() -> str:
    """The release of kernel.org behind this kernel: distributions keep ``uname -r`` at X.Y.0.

    Debian says it in ``uname -v``, Ubuntu in /proc/version_signature.
    """
    debian = re.search(r"Debian (\d+\.\d+\.\d+)", platform.version())
    if debian:
        return debian[1]
    with contextlib.suppress(OSError, IndexError):
        return _UBUNTU.read_text().split()[2]
    return platform.release()


def _version(release: str) -> tuple[int, ...]:
    """6.12.117 of "6.12.117+deb12-cloud-amd64"."""
    numbers = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)


def thp_enabled() -> str:
    """``info["thp_enabled"]``."""
    try:
        return _THP.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "never"
