"""The structs of a kernel made by hand, as short text, and the constants it has."""

from __future__ import annotations

from collections.abc import Mapping

# tag: member:type[length]@offset ...; without an offset a member follows the one before. "ptr" is
# void *, "*tag" a pointer to a struct. As in 6.12, but that only what is read is there.
STRUCTS = {
    "list_head": "next:ptr prev:ptr",
    "hlist_head": "first:ptr",
    "hlist_node": "next:ptr pprev:ptr",
    "rb_node": "__rb_parent_color:u64 rb_right:ptr rb_left:ptr",
    "rb_root": "rb_node:ptr",
    "atomic": "counter:i32",
    "atomic_long": "counter:i64",
    "page": "flags:u64 compound_head:u64 mapping:ptr@24 index:u64 private:u64 _mapcount:atomic "
    "_refcount:atomic memcg_data:u64",
    "folio": "flags:u64 mapping:ptr@24 index:u64 private:u64 _mapcount:atomic _refcount:atomic "
    "_flags_1:u64@64 _head_1:u64 _large_mapcount:atomic _entire_mapcount:atomic "
    "_nr_pages_mapped:atomic _pincount:atomic end:u64@120",
    "task_struct": "__state:u32 flags:u32 static_prio:i32 policy:u32 pid:i32 tasks:list_head "
    "mm:ptr signal:ptr cred:ptr cgroups:ptr start_time:u64 thread_node:list_head comm:char[16] "
    "se:sched_entity tgid:i32 real_parent:ptr@192",
    "sched_entity": "load:u64 sum_exec_runtime:u64",
    "signal_struct": "nr_threads:i32 thread_head:list_head@8",
    "kuid": "val:u32",
    "cred": "usage:u64 uid:kuid",
    "css_set": "refcount:u64 dfl_cgrp:*cgroup",
    "cgroup": "flags:u64 kn:*kernfs_node",
    "kernfs_root": "kn:*kernfs_node",
    "kernfs_dir": "subdirs:u64 root:*kernfs_root",
    "kernfs_node": "count:u64 parent:*kernfs_node name:*char dir:kernfs_dir",
    "maple_tree": "lock:u64 ma_root:ptr",
    "maple_node": "pad:u64[32]",
    "maple_range_64": "parent:ptr pivot:u64[15] slot:ptr[16]",
    "maple_arange_64": "parent:ptr pivot:u64[9] slot:ptr[10] gap:u64[10]",
    "percpu_counter": "lock:u64 count:i64 list:list_head counters:ptr",
    "mm_struct": "mm_mt:maple_tree pgd:ptr mm_users:atomic map_count:i32 arg_start:u64 arg_end:u64 "
    "start_brk:u64 brk:u64 start_stack:u64 flags:u64 rss_stat:percpu_counter[4] "
    "ksm_merging_pages:u64 ksm_rmap_items:u64 ksm_zero_pages:atomic_long",
    "vm_area_struct": "vm_start:u64 vm_end:u64 vm_mm:ptr vm_flags:u64 anon_vma:ptr vm_file:ptr "
    "anon_name:ptr",
    "anon_vma_name": "kref:i32 name:char[8]",
    "mm_slot": "hash:hlist_node mm_node:list_head mm:ptr",
    "ksm_mm_slot": "slot:mm_slot rmap_list:ptr",
    "ksm_scan": "mm_slot:ptr address:u64 rmap_list:ptr seqnr:u64",
    "ksm_stable_node": "node:rb_node hlist_dup:hlist_node list:list_head hlist:hlist_head kpfn:u64 "
    "chain_prune_time:u64 rmap_hlist_len:i32 nid:i32",
    "ksm_rmap_item": "rmap_list:ptr anon_vma:ptr nid:i32 mm:ptr@24 address:u64 oldchecksum:u32 "
    "age:u8 remaining_skips:u8 head:ptr@48 hlist:hlist_node",
    "qstr": "hash_len:u64 name:*char",
    "dentry_operations": "d_dname:ptr",
    "dentry": "d_parent:*dentry d_name:qstr d_op:*dentry_operations",
    "vfsmount": "mnt_root:*dentry",
    "mount": "mnt_parent:*mount mnt_mountpoint:*dentry mnt:vfsmount",
    "path": "mnt:*vfsmount dentry:*dentry",
    "super_block": "s_magic:u64",
    "inode": "i_mode:u32 i_flags:u32 i_sb:*super_block",
    "file": "f_path:path f_inode:*inode",
    "cpumask": "bits:ulong[1]",
    "trace_print_flags": "mask:u64 name:*char",
    "new_utsname": "nodename:char[8] version:char[24]",
    "uts_namespace": "name:new_utsname",
    "tk_read_base": "base:u64 xtime_nsec:u64 shift:u32",
    "timekeeper": "tkr_mono:tk_read_base offs_real:u64 offs_boot:u64 offs_tai:u64",
    "seqcount": "sequence:u32",
    "seqcount_raw_spinlock": "seqcount:seqcount",
    "tk_data": "seq:seqcount_raw_spinlock timekeeper:timekeeper@64",
}

# 6.1: a folio has no large_mapcount, its order stands by itself; rss_stat is an array
STRUCTS_6_1 = STRUCTS | {
    "folio": "flags:u64 mapping:ptr@24 index:u64 private:u64 _mapcount:atomic _refcount:atomic "
    "_flags_1:u64@64 _head_1:u64 _folio_dtor:u8 _folio_order:u8 _total_mapcount:atomic@84 "
    "_pincount:atomic end:u64@120",
    "mm_rss_stat": "count:atomic_long[4]",
    "task_rss_stat": "events:i32 count:i32[4]",
    "task_struct": STRUCTS["task_struct"] + " rss_stat:task_rss_stat@160",
    "mm_struct": "mm_mt:maple_tree pgd:ptr mm_users:atomic map_count:i32 arg_start:u64 arg_end:u64 "
    "start_brk:u64 brk:u64 start_stack:u64 rss_stat:mm_rss_stat flags:u64 ksm_merging_pages:u64",
    "mm_slot": "link:hlist_node mm_list:list_head rmap_list:ptr mm:ptr",
    "stable_node": STRUCTS["ksm_stable_node"],
    "rmap_item": "rmap_list:ptr anon_vma:ptr nid:i32 mm:ptr@24 address:u64 oldchecksum:u32 "
    "head:ptr@48 hlist:hlist_node",
}
for _renamed in ("ksm_mm_slot", "ksm_stable_node", "ksm_rmap_item"):
    del STRUCTS_6_1[_renamed]

# 5.10: a folio is a compound page; the second and the third struct page hold what is said of it
STRUCTS_5_10 = STRUCTS_6_1 | {
    "page": STRUCTS["page"] + " compound_order:u8@17 compound_mapcount:atomic@20 "
    "hpage_pinned_refcount:atomic@16"
}
del STRUCTS_5_10["folio"]

PAGE_FLAGS = {
    name: bit
    for bit, name in enumerate(
        ("PG_locked", "PG_writeback", "PG_head", "PG_lru", "PG_mlocked", "PG_swapbacked")
        + ("PG_swapcache", "PG_hwpoison", "PG_anon_exclusive", "PG_double_map"),
        start=8,  # the low byte of the second page's flags is the order
    )
}
CONSTANTS = PAGE_FLAGS | {"maple_leaf_64": 1, "maple_range_64": 2, "maple_arange_64": 3}
SCALARS = {
    **{f"u{8 * n}": (f"unsigned {c}", n) for n, c in ((1, "char"), (2, "short"), (4, "int"))},
    **{f"i{8 * n}": (f"signed {c}", n) for n, c in ((1, "char"), (2, "short"), (4, "int"))},
    "u64": ("unsigned long", 8),
    "ulong": ("unsigned long", 8),
    "i64": ("long", 8),
    "char": ("char", 1),
}


def parse(text: str, structs: Mapping[str, str]) -> dict[str, tuple[str, int, int, int | None]]:
    """By member: base type, offset, size of an element in bytes, length of an array."""
    members: dict[str, tuple[str, int, int, int | None]] = {}
    end = 0
    for declaration in text.split():
        name, _, type_ = declaration.partition(":")
        type_, _, place = type_.partition("@")
        base, _, length = type_.rstrip("]").partition("[")
        if base in structs:
            inner = parse(structs[base], structs).values()
            size = max(at + n * (count or 1) for _, at, n, count in inner)
        else:
            size = SCALARS[base][1] if base in SCALARS else 8
        at = int(place) if place else end
        members[name] = (base, at, size, int(length) if length else None)
        end = at + size * int(length or 1)
    return members
