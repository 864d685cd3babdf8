"""How KSM is set, from sysfs; and what this kernel's KSM does, from its release."""

from __future__ import annotations

import contextlib
import functools
import platform
import re
from pathlib import Path
from typing import Any

from estimator.ksm.features import about_features, debian_release
from estimator.procfs.page_size import PAGE_BYTES

_KSM = Path("/sys/kernel/mm/ksm")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SLAB = Path("/sys/kernel/slab")
_KALLSYMS = Path("/proc/kallsyms")
_UBUNTU = Path("/proc/version_signature")
_COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "ksm_zero_pages", "pages_scanned"),
    *("stable_node_chains", "stable_node_dups", "pages_skipped", "full_scans"),
)
# bytes on every 64-bit kernel from 5.19 to 6.18
_USUAL_SIZES = {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48}
_NOT_SETTINGS = (*_COUNTERS, "pages_volatile", "general_profit")
# what is there as soon as KSM is: the file of /sys/kernel/mm/ksm for a variable of mm/ksm.c
_FILES = {
    "ksm_zero_pages": "ksm_zero_pages",
    "ksm_smart_scan": "smart_scan",
    "ksm_advisor": "advisor_mode",
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


def struct_sizes() -> tuple[dict[str, int], list[str]]:
    """``info["sizes"]``, and the structs for which they are only assumed.

    By the slab caches that mm/ksm.c names after its structs. SLAB_MERGE makes one of several: only
    if their objects, in whole words, are of one size (find_mergeable() in mm/slab_common.c).
    """
    sizes, assumed = {}, []
    for struct, usual_bytes in _USUAL_SIZES.items():
        try:
            sizes[struct] = int((_SLAB / struct / "object_size").read_text())
        except (OSError, ValueError):
            sizes[struct] = usual_bytes
            assumed.append(struct)
    return sizes, assumed


def features(release: str) -> dict[str, Any]:
    """``info["features"]`` (see ``estimator.ksm.features``), by sysfs, kallsyms and release.

    And ``info["features_by_release"]``: those that only ``release`` tells (``upstream_release``).
    """
    return about_features(RunningKernel(), release)


class RunningKernel:
    """What the running kernel was built from (``KernelSource``), as far as its files tell."""

    def has_function(self, name: str) -> bool | None:
        """True if /proc/kallsyms has it; else it may be inlined."""
        return True if name in self._functions else None

    def has_variable(self, name: str) -> bool | None:
        """By the files of sysfs."""
        if name not in _FILES or not _KSM.is_dir():
            return None
        return (_KSM / _FILES[name]).exists()

    def has_constant(self, name: str) -> None:
        """Stands in no file."""

    def has_member(self, struct: str, member: str) -> None:
        """Stands in no file."""

    def function_parameters(self, name: str) -> None:
        """Stands in no file."""

    @functools.cached_property
    def _functions(self) -> frozenset[str]:
        """Names of the kernel's functions, without what the compiler adds after a dot."""
        with contextlib.suppress(OSError):
            lines = _KALLSYMS.read_text(errors="replace").splitlines()
            symbols = (line.split() for line in lines)
            return frozenset(s[2].partition(".")[0] for s in symbols if s[1:2] in (["t"], ["T"]))
        return frozenset()


def upstream_release() -> str:
    """The release of kernel.org behind this kernel: distributions keep ``uname -r`` at X.Y.0.

    Debian says it in ``uname -v``, Ubuntu in /proc/version_signature.
    """
    debian = debian_release(platform.version())
    if debian:
        return debian
    with contextlib.suppress(OSError, IndexError):
        return _UBUNTU.read_text().split()[2]
    return platform.release()


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
