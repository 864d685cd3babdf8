"""What the reader needs of a kernel, checked before work.

What a kernel lacks makes it one that is not supported; it says nothing of the dump.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Architecture, Program, Type

from estimator.errors import CannotAnswerError
from estimator.kernel.arch import require_architecture
from estimator.kernel.layout import has_member, has_type, has_variable
from estimator.kernel.vmcoreinfo import kernel_release

SUPPORTED = "5.10 to 7.3"

ZERO_PFN = ("zero_page_pfn", "zero_pfn")  # renamed by 7.2, where zero_pfn is a function
_VARIABLES = (
    ("init_task",),
    ("init_uts_ns",),
    ("root_stable_tree",),
    ("migrate_nodes",),
    ("ksm_scan",),
    ZERO_PFN,
)

_VARIABLES_OF_ARM64 = (("protection_map",),)  # what tells the generation of its entries


@dataclass(frozen=True)
class Need:
    """A struct, and members that must be in it.

    ``types``: its names, newest first, of which one must exist. ``members``: of each tuple one must
    exist.
    """

    types: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]


def _need(types: str, *members: str) -> Need:
    """Alternatives stand apart by a bar."""
    names = tuple(f"struct {name}" for name in types.split("|"))
    return Need(names, tuple(tuple(member.split("|")) for member in members))


_NEEDS = (
    _need(
        "page",
        "flags.f|flags",
        "mapping",
        "compound_info|compound_head",
        "_mapcount.counter",
        "_refcount.counter",
    ),
    _need(
        "mm_struct",
        "pgd",
        "flags",
        "map_count",
        "mm_users.counter",
        "mm_mt.ma_root|mmap",
        "arg_start",
        "arg_end",
        "start_brk",
        "brk",
        "start_stack",
        "rss_stat",
    ),
    _need(
        "vm_area_struct",
        "vm_start",
        "vm_end",
        "vm_mm",
        "vm_flags|__vm_flags",
        "anon_vma",
        "vm_file",
    ),
    _need(
        "task_struct",
        "__state|state",
        "tasks",
        "thread_node",
        "pid",
        "tgid",
        "real_parent",
        "comm",
        "flags",
        "mm",
        "signal",
        "cred",
        "cgroups",
        "policy",
        "static_prio",
        "start_time",
    ),
    _need("cred", "uid.val"),
    _need("signal_struct", "nr_threads", "thread_head"),
    _need("file", "f_inode", "f_path.dentry"),
    _need("inode", "i_flags"),
    _need("dentry", "d_parent"),
    _need("kernfs_node", "__parent|parent"),
    _need("ksm_rmap_item|rmap_item", "mm", "address", "oldchecksum", "hlist.next"),
    _need(
        "ksm_stable_node|stable_node",
        "node.rb_left",
        "node.rb_right",
        "hlist_dup.next",
        "list.next",
        "hlist.first",
        "kpfn",
        "rmap_hlist_len",
    ),
)
_FOLIO = _need(
    "folio",
    "flags.f|flags",
    "mapping",
    "_refcount.counter",
    "_flags_1",
    "_entire_mapcount.counter|_total_mapcount.counter",
    "_pincount.counter",
)
_COMPOUND_PAGE = _need(  # until 5.15
    "page", "compound_order", "compound_mapcount.counter", "hpage_pinned_refcount.counter"
)
_MM_SLOT = _need("ksm_mm_slot|mm_slot", "slot.mm_node|mm_list", "slot.mm|mm")


def require_ksm(prog: Program) -> None:
    """Raise CannotAnswerError unless this kernel has KSM and all that the reader needs.

    That is page tables that can be decoded, structs, their members and variables.
    """
    require_architecture(prog)
    if "ksm_mm_head" not in prog:
        raise CannotAnswerError(f"kernel {kernel_release(prog)} is built without CONFIG_KSM")
    lacking = missing(prog)
    if lacking:
        raise CannotAnswerError(
            f"this kernel ({kernel_release(prog)}) has no {', no '.join(lacking)}: not supported "
            f"yet; supported are {SUPPORTED}"
        )


def missing(prog: Program) -> list[str]:
    """What the reader needs and this kernel lacks, in words; empty if nothing."""
    lacking = []
    folio = _FOLIO if has_type(prog, _FOLIO.types[0]) else _COMPOUND_PAGE
    for need in (*_NEEDS, folio):
        type_ = next((name for name in need.types if has_type(prog, name)), None)
        if type_ is None:
            lacking.append(_either(need.types))
        else:
            lacking += _missing_members(prog, need, prog.type(type_))
    # by a variable of the type: until 6.0 another struct has its name
    lacking += _missing_members(prog, _MM_SLOT, prog["ksm_mm_head"].type_)
    arm64 = prog.platform is not None and prog.platform.arch == Architecture.AARCH64
    lacking += [
        f"variable {_either(names)}"
        for names in (*_VARIABLES, *(_VARIABLES_OF_ARM64 if arm64 else ()))
        if not any(has_variable(prog, name) for name in names)
    ]
    return lacking


def _missing_members(prog: Program, need: Need, type_: Type) -> list[str]:
    return [
        f"{_either(paths)} in `{type_.type_name()}`"
        for paths in need.members
        if not any(has_member(prog, type_, path) for path in paths)
    ]


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in names)
