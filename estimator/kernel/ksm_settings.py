"""How KSM is set and built in a kernel: tunables, counters, struct sizes, features."""

from __future__ import annotations

from typing import Any

import drgn
from drgn import Program

from estimator.kernel.carried import carries_symbols
from estimator.kernel.failures import skip_unreadable
from estimator.kernel.layout import first_type, has_function, has_member, has_variable
from estimator.kernel.vmcoreinfo import kernel_release
from estimator.ksm.features import about_features, debian_release

# sysfs file in /sys/kernel/mm/ksm: variable in mm/ksm.c
_TUNABLES = {
    "run": "ksm_run",
    "max_page_sharing": "ksm_max_page_sharing",
    "use_zero_pages": "ksm_use_zero_pages",
    "merge_across_nodes": "ksm_merge_across_nodes",
    "smart_scan": "ksm_smart_scan",
    "pages_to_scan": "ksm_thread_pages_to_scan",
    "sleep_millisecs": "ksm_thread_sleep_millisecs",
    "stable_node_chains_prune_millisecs": "ksm_stable_node_chains_prune_millisecs",
    "advisor_mode": "ksm_advisor",
    "advisor_max_cpu": "ksm_advisor_max_cpu",
    "advisor_min_pages_to_scan": "ksm_advisor_min_pages_to_scan",
    "advisor_max_pages_to_scan": "ksm_advisor_max_pages_to_scan",
    "advisor_target_scan_time": "ksm_advisor_target_scan_time",
}
_COUNTERS = {
    "pages_shared": "ksm_pages_shared",
    "pages_sharing": "ksm_pages_sharing",
    "pages_unshared": "ksm_pages_unshared",
    "ksm_rmap_items": "ksm_rmap_items",
    "ksm_zero_pages": "ksm_zero_pages",
    "stable_node_chains": "ksm_stable_node_chains",
    "stable_node_dups": "ksm_stable_node_dups",
    "pages_scanned": "ksm_pages_scanned",
    "pages_skipped": "ksm_pages_skipped",
    "full_scans": "ksm_scan.seqnr",
}


def read_settings(prog: Program) -> dict[str, Any]:
    """``info["ksm"]``: the tunables, and under ``counters`` the counters (pages).

    What this kernel does not have is absent. Without NUMA, pages merge across (one) node.
    """
    settings = _read(prog, _TUNABLES)
    settings.setdefault("merge_across_nodes", 1)
    settings.setdefault("use_zero_pages", 0)
    return settings | {"counters": _read(prog, _COUNTERS)}


def _read(prog: Program, variables: dict[str, str]) -> dict[str, int]:
    found = {}
    for name, variable in variables.items():
        base, *members = variable.split(".")
        with skip_unreadable(LookupError):
            value = prog[base]
            for member in members:
                value = value.member_(member)
            if value.type_.unaliased_kind() == drgn.TypeKind.STRUCT:  # atomic_long_t since 6.10
                value = value.counter
            found[name] = int(value.value_())
    return found


def struct_sizes(prog: Program) -> dict[str, int]:
    """``info["sizes"]``: bytes of the structs that KSM allocates; named so since 6.1."""
    sizes = {"ksm_mm_slot": drgn.sizeof(prog["ksm_mm_head"])}  # struct mm_slot may be another's
    for name in ("rmap_item", "stable_node"):
        type_ = first_type(prog, f"struct ksm_{name}", f"struct {name}")
        sizes[f"ksm_{name}"] = drgn.sizeof(prog.type(type_))
    return sizes


def features(prog: Program) -> dict[str, Any]:
    """``info["features"]`` and ``info["features_by_release"]`` (``estimator.ksm.features``)."""
    return about_features(BuiltFrom(prog), upstream_release(prog))


def upstream_release(prog: Program) -> str:
    """The release of kernel.org behind this kernel, which Debian names in ``uname -v``."""
    version: bytes = prog["init_uts_ns"].name.version.string_()
    return debian_release(version.decode(errors="replace")) or kernel_release(prog)


def thp_orders(prog: Program) -> dict[str, int] | None:
    """``info["thp_orders"]``: the orders (bit n: order n) of anonymous folios by their mode.

    As in /sys/kernel/mm/transparent_hugepage/hugepages-*kB/enabled; None before 6.8
    (3485b88390b0), where the one mode of all is that of huge pages.
    """
    modes = {mode: f"huge_anon_orders_{mode}" for mode in ("always", "madvise", "inherit")}
    with skip_unreadable(LookupError):
        return {mode: int(prog[name]) for mode, name in modes.items()}
    return None


class BuiltFrom:
    """What a kernel was built from (``KernelSource``), by its types and symbols."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._sees_inlined = not carries_symbols(prog)

    def has_function(self, name: str) -> bool | None:
        """Inlined ones are in debug information too, but not in what the kernel carries."""
        return has_function(self._prog, name) or (False if self._sees_inlined else None)

    def has_variable(self, name: str) -> bool:
        """Also static ones."""
        return has_variable(self._prog, name)

    def has_constant(self, name: str) -> bool:
        """Enumerators; macros are not there."""
        try:
            self._prog.constant(name)
        except LookupError:
            return False
        return True

    def has_member(self, struct: str, member: str) -> bool:
        """False also if there is no such struct."""
        return has_member(self._prog, f"struct {struct}", member)

    def function_parameters(self, name: str) -> int | None:
        """None if there is no such function, or its type is not known."""
        try:
            type_ = self._prog.function(name).type_
        except LookupError:
            return None
        return None if type_.is_variadic and not type_.parameters else len(type_.parameters)


def thp_enabled(prog: Program) -> str:
    """``info["thp_enabled"]``: as in /sys/kernel/mm/transparent_hugepage/enabled."""
    with skip_unreadable(LookupError):
        flags = int(prog["transparent_hugepage_flags"])
        always = int(prog.constant("TRANSPARENT_HUGEPAGE_FLAG"))
        madvise = int(prog.constant("TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG"))
        if flags >> always & 1:
            return "always"
        if flags >> madvise & 1:
            return "madvise"
    return "never"
