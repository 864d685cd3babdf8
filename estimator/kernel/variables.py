"""The C types of the variables that are read: BTF has those of few variables.

As they are declared in the kernel's source; debug information of all kernels of the lab agrees.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import drgn
from drgn import Program

from estimator.kernel import vmcoreinfo
from estimator.kernel.btf import Btf

_SETTING = ("unsigned int",)
_COUNT = ("unsigned long",)
TYPES: dict[str, tuple[str, ...]] = {
    # mm/ksm.c
    "root_stable_tree": ("struct rb_root *",),
    "migrate_nodes": ("struct list_head",),
    "ksm_mm_head": ("struct ksm_mm_slot", "struct mm_slot {mm_list}"),  # 6.1+
    "ksm_scan": ("struct ksm_scan",),
    "ksm_nr_node_ids": ("int",),
    "ksm_run": _COUNT,
    "ksm_max_page_sharing": ("int",),
    "ksm_use_zero_pages": ("bool",),
    "ksm_merge_across_nodes": _SETTING,
    "ksm_smart_scan": ("bool",),
    "ksm_thread_pages_to_scan": _SETTING,
    "ksm_thread_sleep_millisecs": _SETTING,
    "ksm_stable_node_chains_prune_millisecs": _SETTING,
    "ksm_advisor": ("enum ksm_advisor_type",),
    "ksm_advisor_max_cpu": _SETTING,
    "ksm_advisor_min_pages_to_scan": _COUNT,
    "ksm_advisor_max_pages_to_scan": _COUNT,
    "ksm_advisor_target_scan_time": _COUNT,
    "ksm_pages_shared": _COUNT,
    "ksm_pages_sharing": _COUNT,
    "ksm_pages_unshared": _COUNT,
    "ksm_rmap_items": _COUNT,
    "ksm_zero_pages": ("atomic_long_t",),
    "ksm_stable_node_chains": _COUNT,
    "ksm_stable_node_dups": _COUNT,
    "ksm_pages_scanned": _COUNT,
    "ksm_pages_skipped": _COUNT,
    # memory
    "zero_page_pfn": _COUNT,
    "zero_pfn": _COUNT,
    "max_pfn": _COUNT,
    "page_offset_base": _COUNT,
    "mem_section": ("struct mem_section **",),
    "node_data": ("struct pglist_data *[]",),
    "nr_swapfiles": _SETTING,
    "sme_me_mask": ("u64",),
    "protection_map": ("pgprot_t [16]",),  # arm64
    "transparent_hugepage_flags": _COUNT,
    "huge_anon_orders_always": _COUNT,
    "huge_anon_orders_madvise": _COUNT,
    "huge_anon_orders_inherit": _COUNT,
    "vmaflag_names": ("const struct trace_print_flags []",),
    # per CPU, mm/swap.c and mm/mlock.c
    "cpu_fbatches": ("struct cpu_fbatches",),
    "lru_pvecs": ("struct lru_pvecs",),
    "lru_rotate": ("struct lru_rotate",),
    "mlock_fbatch": ("struct mlock_fbatch",),
    "mlock_pvec": ("struct mlock_pvec", "struct pagevec"),
    # processors and time
    "__per_cpu_offset": ("unsigned long []",),
    "__cpu_online_mask": ("struct cpumask",),
    "nr_cpu_ids": _SETTING,
    "timekeeper_data": ("struct tk_data []",),  # 6.17+, 22c62b9a84b8
    "tk_core": ("struct tk_data", "struct {seq, timekeeper}"),  # 6.13+
    # processes, and who this is
    "init_task": ("struct task_struct",),
    "userspace_init_fs": ("struct fs_struct *",),
    "init_uts_ns": ("struct uts_namespace",),
    "sysctl_bootid": ("u8 [16]",),
}
_WITH_MEMBERS = re.compile(r"struct (\w*) ?\{(.*)\}")


def type_of(
    prog: Program, btf: Btf, name: str, most_bytes: Callable[[str], int]
) -> drgn.Type | None:
    """The type of the variable ``name``; None if it is not known.

    How long an array is VMCOREINFO says, or ``most_bytes``: how far it is to the next symbol.
    """
    for declared in TYPES.get(name, ()):
        try:
            type_ = _parsed(prog, btf, declared)
        except LookupError:
            continue
        if type_ is None:
            continue
        if type_.kind == drgn.TypeKind.ARRAY and type_.length is None:
            length = vmcoreinfo.lengths(prog).get(name)
            if length is None:
                length = most_bytes(name) // drgn.sizeof(type_.type)
            return prog.array_type(type_.type, length)
        return type_
    return None


def _parsed(prog: Program, btf: Btf, declared: str) -> drgn.Type | None:
    members = _WITH_MEMBERS.fullmatch(declared)
    if members:
        return btf.struct_with(members[1] or None, *members[2].split(", "))
    return prog.type(declared)
