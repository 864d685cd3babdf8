"""The columns of a snapshot's tables, format 2; the order of rows is meaning, see ``store``.

Columns that are not named here are passed over: a later version may add some, for who asks for
them, without a new format. Those of ``OPTIONAL`` may be missing: they were not asked for, or the
snapshot is older than they are.

``info["piece_bytes"]`` and ``info["zero_piece_hash"]`` go with ``frames.piece_hash_0`` and so on:
the size of the pieces, and the hash of a zero-filled one.

``OTHERS``: tables that are there only where contents of other than anonymous memory were asked for
(--contents all), which ``info["contents"]`` says; missing: anonymous memory alone. Nobody looks at
them but a question of what if that memory were anonymous (``ksm.as_if``). ``frame_id`` of
``other_mappings`` is the row number in ``other_frames``. A mapping that a process has of such
memory, and has not touched, is in no page table and so in no table here.

``info["ksm"]["ksmd_cpu_ns"]``: CPU time of ksmd since boot; null or missing: not known.

``info["without_contents"]``: no content of a frame was read, on demand; missing where a snapshot is
older than the option.

``info["unknown"]``: counts of what could not be read. ``info["unreadable_processes"]``: name and
pid of those among them that could be named (``--procfs``).

Format 1 had ``mappings.page_index`` as u32, neither ``frames.kind`` nor
``frames.batch_references``, and -1 as the ``scan_order`` of every process where it was not known.
"""

from __future__ import annotations

from collections.abc import Container

import pyarrow as pa

ROW_GROUP_ROWS = 1 << 20  # so many are written and read in one go
MOST_ROWS = 1 << 31  # rows are numbered as i32

MOST_PIECES = 16  # of a page of 64 KiB

U8, U16, U32, U64 = pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()
I8, I32, I64 = pa.int8(), pa.int32(), pa.int64()


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    """Columns are not nullable unless their third value says so."""
    return pa.schema([pa.field(c[0], c[1], nullable=len(c) == 3 and c[2]) for c in columns])


SCHEMAS: dict[str, pa.Schema] = {
    "processes": _schema(
        ("mm_id", U32),
        ("scan_order", I32, True),  # place in ksm_mm_head's list; -1: not on it; null: not known
        ("pid", I32),  # thread-group leader; -1: an mm on ksmd's list without a task
        ("comm", pa.string()),
        ("cmdline", pa.string(), True),  # null: could not be read
        ("uid", U32),
        ("cgroup", pa.string()),
        ("merge_any", pa.bool_(), True),  # MMF_VM_MERGE_ANY; null: no such prctl in this kernel
        ("threads", U32),  # tasks that use the mm
        ("sharing_pids", pa.list_(I32)),  # further thread groups with this mm (CLONE_VM)
        ("sched_policy", U8),
        ("nice", I8),
        ("start_time_ns", U64),  # since boot
        ("ksm_rmap_items", I64, True),  # the kernel's own counters of the mm; null: it has none
        ("ksm_merging_pages", I64, True),
        ("ksm_zero_pages", I64, True),
    ),
    "vmas": _schema(
        ("vma_id", U32),
        ("mm_id", U32),
        ("start", U64),
        ("end", U64),
        ("vm_flags", U64),
        ("name", pa.string()),
        ("mergeable", pa.bool_()),  # VM_MERGEABLE
        ("compatible", pa.bool_()),  # vma_ksm_compatible()
        ("excluded_by", pa.string(), True),  # the flag that makes it incompatible, or "DAX"
        ("has_anon_vma", pa.bool_()),
        ("locked", pa.bool_()),  # VM_LOCKED
        ("swap_pages", U64),  # swap entries
        ("zero_pages", U64),  # mappings of the kernel's zero page, but ksmd's
        ("ksm_zero_pages", U64),  # zero page mappings that ksmd placed
        ("nonpresent_pages", U64),  # migration, hwpoison, device, marker entries
        ("unknown_pages", U64),  # pages whose page table could not be read
    ),
    "mappings": _schema(("vma_id", U32), ("page_index", U64), ("frame_id", U32), ("flags", U8)),
    "frames": _schema(
        ("pfn", U64),
        ("hash", U64, True),  # null exactly where unknown != 0
        ("unknown", U8),  # Unknown
        ("kind", U8),  # FrameKind
        ("flags", U32),  # FrameFlag
        ("order", U8),  # of the folio
        ("head_pfn", U64),  # of the folio
        ("node", U16),  # or UNKNOWN_NODE
        ("mapcount", I32),  # mappings of this page, system-wide
        ("refcount", I32),  # of the folio
        ("folio_mapcount", I32),  # mappings of all pages of the folio
        ("batch_references", U8, True),  # of refcount, held by per-CPU batches; null: not known
    ),
    "stable_nodes": _schema(
        ("node_id", U32),  # row number, in the kernel's order of search
        ("chain_id", I32),  # -1: not a member of a chain
        ("pfn", U64),
        ("frame_id", U32, True),  # null: the frame is not mapped by any process
        ("node", U16),  # NUMA node of the tree
        ("live", pa.bool_()),  # the frame still points back at the stable node
        (
            "items",  # age and checksum: 0 where the kernel keeps none
            pa.list_(pa.struct([("mm_id", U32), ("address", U64), ("age", U8), ("checksum", U32)])),
        ),
    ),
}

OTHERS = {"other_mappings": SCHEMAS["mappings"], "other_frames": SCHEMAS["frames"]}
TABLES = (*SCHEMAS, *OTHERS)
"""The names of all."""
OPTIONAL: dict[str, pa.Schema] = {
    "processes": _schema(
        ("parent_pid", I32, True),  # thread-group leader of real_parent; null: not known
    ),
    "mappings": _schema(
        ("visits", U8),  # of full scans to a page that is not merged, and AHEAD; see ``flags``
    ),
    "frames": _schema(
        ("near_hash", U64, True),  # of the page without its first and last 64 bytes
        ("no_address_hash", U64, True),  # of the page with its own mm's addresses as zeroes
        *((f"piece_hash_{number}", U64, True) for number in range(MOST_PIECES)),  # in their order
    ),
}
"""Hashes are of the seed of ``hash`` and null where that is."""


def columns_of(name: str, there: Container[str]) -> pa.Schema:
    """The columns of the table ``name``: all of ``SCHEMAS``, of ``OPTIONAL`` those in ``there``."""
    more = [field for field in OPTIONAL.get(name, ()) if field.name in there]
    return pa.schema([*(SCHEMAS | OTHERS)[name], *more])
