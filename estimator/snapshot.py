"""The snapshot: what was found in a kernel's memory, as Parquet tables, nothing interpreted.

A snapshot is a directory ``NAME.ksm/`` of Parquet files and one ``snapshot.json``. It holds facts
(this frame has this hash), never decisions (this page will merge), so that one snapshot answers
every what-if. Row order carries meaning and is kept:

- ``processes``: ksmd's scan order (the mms on its list first, in list order; then the others by
  start time and pid). ``mm_id`` is the row number.
- ``vmas``: by ``mm_id``, then ``start``. ``vma_id`` is the row number.
- ``mappings``: by ``vma_id``, then ``page_index``. The row number is the place in a full scan.
- ``frames``: by ``pfn``. ``frame_id`` is the row number.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.errors import TargetError
from estimator.facts import FrameFlag, MappingFlag, Unknown

__all__ = [
    "FORMAT_VERSION",
    "SCHEMAS",
    "FrameFlag",
    "MappingFlag",
    "Snapshot",
    "Unknown",
    "check_output",
    "open_snapshot",
    "write_snapshot",
]

FORMAT_VERSION = 1


_U8, _U16, _U32, _U64 = pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()
_I8, _I32, _I64 = pa.int8(), pa.int32(), pa.int64()


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    """Columns are not nullable unless their third value says so."""
    return pa.schema([pa.field(c[0], c[1], nullable=len(c) == 3 and c[2]) for c in columns])


SCHEMAS: dict[str, pa.Schema] = {
    "processes": _schema(
        ("mm_id", _U32),
        ("scan_order", _I32),  # place in ksm_mm_head's list; -1: not on it
        ("pid", _I32),  # thread-group leader; -1: an mm on ksmd's list without a task
        ("comm", pa.string()),
        ("cmdline", pa.string(), True),  # null: could not be read
        ("uid", _U32),
        ("cgroup", pa.string()),
        ("merge_any", pa.bool_(), True),  # MMF_VM_MERGE_ANY; null: no such prctl in this kernel
        ("threads", _U32),  # tasks that use the mm
        ("sharing_pids", pa.list_(_I32)),  # further thread groups with this mm (CLONE_VM)
        ("sched_policy", _U8),
        ("nice", _I8),
        ("start_time_ns", _U64),  # since boot
        ("ksm_rmap_items", _I64, True),  # the kernel's own counters of the mm; null: it has none
        ("ksm_merging_pages", _I64, True),
        ("ksm_zero_pages", _I64, True),
    ),
    "vmas": _schema(
        ("vma_id", _U32),
        ("mm_id", _U32),
        ("start", _U64),
        ("end", _U64),
        ("vm_flags", _U64),
        ("name", pa.string()),
        ("mergeable", pa.bool_()),  # VM_MERGEABLE
        ("compatible", pa.bool_()),  # vma_ksm_compatible()
        ("excluded_by", pa.string(), True),  # the flag that makes it incompatible, or "dax"
        ("has_anon_vma", pa.bool_()),
        ("locked", pa.bool_()),  # VM_LOCKED
        ("swap_pages", _U64),  # swap entries
        ("zero_pages", _U64),  # mappings of the kernel's zero page, but ksmd's
        ("ksm_zero_pages", _U64),  # zero page mappings that ksmd placed
        ("nonpresent_pages", _U64),  # migration, hwpoison, device, marker entries
        ("unknown_pages", _U64),  # pages whose page table could not be read
    ),
    "mappings": _schema(("vma_id", _U32), ("page_index", _U32), ("frame_id", _U32), ("flags", _U8)),
    "frames": _schema(
        ("pfn", _U64),
        ("hash", _U64, True),  # null exactly where unknown != 0
        ("unknown", _U8),  # Unknown
        ("flags", _U32),  # FrameFlag
        ("order", _U8),  # of the folio
        ("head_pfn", _U64),  # of the folio
        ("node", _U16),  # or UNKNOWN_NODE
        ("mapcount", _I32),  # mappings of this page, system-wide
        ("refcount", _I32),  # of the folio
        ("folio_mapcount", _I32),  # mappings of all pages of the folio
    ),
    "stable_nodes": _schema(
        ("node_id", _U32),  # row number, in the kernel's order of search
        ("chain_id", _I32),  # -1: not a member of a chain
        ("pfn", _U64),
        ("frame_id", _U32, True),  # null: the frame is not mapped by any process
        ("node", _U16),  # NUMA node of the tree
        ("live", pa.bool_()),  # the frame still points back at the stable node
        (
            "items",
            pa.list_(
                pa.struct([("mm_id", _U32), ("address", _U64), ("age", _U8), ("checksum", _U32)])
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Snapshot:
    """The tables of one snapshot, as DataFrames with the columns of ``SCHEMAS``.

    ``frames.hash`` is nullable (``UInt64``). ``stable_nodes`` lacks the nested column ``items``:
    the items stand flat in ``stable_items`` with the columns node_id, mm_id, address, age,
    checksum. ``info`` is the content of ``snapshot.json``.
    """

    info: dict[str, Any]
    processes: pd.DataFrame
    vmas: pd.DataFrame
    mappings: pd.DataFrame
    frames: pd.DataFrame
    stable_nodes: pd.DataFrame = field(repr=False)
    stable_items: pd.DataFrame = field(repr=False)

    def _repr_html_(self) -> str:
        """How much there is of everything, in a notebook."""
        rows = {name: len(getattr(self, name)) for name in SCHEMAS}
        return pd.Series(rows, name=f"Linux {self.info['kernel']['release']}").to_frame().to_html()


def _to_arrow(name: str, frame: pd.DataFrame) -> pa.Table:
    schema = SCHEMAS[name]
    arrays = [pa.array(frame[f.name], type=f.type, from_pandas=f.nullable) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _nest_items(nodes: pd.DataFrame, items: pd.DataFrame) -> pa.Table:
    schema = SCHEMAS["stable_nodes"]
    items = items.sort_values("node_id", kind="stable")
    struct = schema.field("items").type.value_type
    values = pa.StructArray.from_arrays(
        [pa.array(items[f.name], type=f.type) for f in struct], fields=list(struct)
    )
    offsets = np.searchsorted(items["node_id"].to_numpy(), np.arange(len(nodes) + 1))
    lists = pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), values)
    arrays = [
        lists if f.name == "items" else pa.array(nodes[f.name], type=f.type, from_pandas=f.nullable)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


_ENCODING = dict.fromkeys(("page_index", "frame_id", "pfn", "head_pfn"), "DELTA_BINARY_PACKED")
_NO_DICTIONARY = ("hash", *_ENCODING)  # hardly a value occurs twice


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write ``snapshot`` to the new directory ``path`` (0700, files 0600).

    Built beside ``path`` and renamed at the end: a snapshot that exists is complete.
    Raises TargetError if ``path`` exists or its parent can't be written.
    """
    check_output(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name in SCHEMAS:
            table = (
                _nest_items(snapshot.stable_nodes, snapshot.stable_items)
                if name == "stable_nodes"
                else _to_arrow(name, getattr(snapshot, name))
            )
            with _create(temporary / f"{name}.parquet") as file:
                pq.write_table(  # in one row group: it is read without joining pieces
                    table,
                    file,
                    compression="zstd",
                    compression_level=1,
                    row_group_size=max(table.num_rows, 1),
                    use_dictionary=[n for n in table.column_names if n not in _NO_DICTIONARY],
                    column_encoding={n: e for n, e in _ENCODING.items() if n in table.column_names},
                )
        with _create(temporary / "snapshot.json") as file:
            file.write(json.dumps(snapshot.info, indent=1).encode())
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_output(path: Path) -> None:
    """Raise TargetError if a snapshot can't be made at ``path``; say so before any long work."""
    if path.exists():
        raise TargetError(f"{path} exists already", hint="choose another name or remove it")
    if not path.parent.is_dir():
        raise TargetError(f"{path.parent} is not a directory", hint=f"mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise TargetError(f"{path.parent} can't be written", hint="choose another directory")


def _create(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def open_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read the snapshot directory ``path``.

    Raises TargetError for a missing file, a newer format, a missing column or a wrong type.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise TargetError(
            f"{directory} is not a snapshot directory",
            hint="make one with: ksm-estimator collect --core VMCORE -o NAME.ksm",
        )
    try:
        info = json.loads((directory / "snapshot.json").read_text())
        version = info["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{directory}: no readable snapshot.json ({error})") from error
    if version != FORMAT_VERSION:
        raise TargetError(
            f"{directory} has snapshot format {version}, this program reads {FORMAT_VERSION}",
            hint="use the version of ksm-estimator that wrote it, or collect again",
        )
    tables = {name: _read_table(directory / f"{name}.parquet", name) for name in SCHEMAS}
    nodes = tables.pop("stable_nodes")
    frames = {name: _to_pandas(table) for name, table in tables.items()}
    return Snapshot(
        info=info,
        stable_nodes=_to_pandas(nodes.drop_columns(["items"])),
        stable_items=_flatten_items(nodes),
        **frames,
    )


def _read_table(path: Path, name: str) -> pa.Table:
    schema = SCHEMAS[name]
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise TargetError(f"{path} can't be read: {error}") from error
    for column in schema:
        if column.name not in table.column_names:
            raise TargetError(f"{path}: column {column.name!r} is missing")
        found = table.schema.field(column.name).type
        if found != column.type:
            raise TargetError(f"{path}: column {column.name!r} is {found}, not {column.type}")
        if not column.nullable and table[column.name].null_count:
            raise TargetError(f"{path}: column {column.name!r} has nulls")
    return table.select(schema.names).cast(schema)


_NULLABLE: dict[pa.DataType, Any] = {
    _U64: pd.UInt64Dtype(),
    _U32: pd.UInt32Dtype(),
    _I64: pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """NumPy columns; nullable integers and booleans as pandas' own nullable types."""
    columns: dict[str, Any] = {}
    for column in table.schema:
        values = table[column.name]
        if column.nullable:
            columns[column.name] = values.to_pandas(types_mapper=_NULLABLE.get)
        elif values.num_chunks == 1 and pa.types.is_integer(column.type):
            columns[column.name] = values.chunk(0).to_numpy()  # nothing is copied
        else:
            columns[column.name] = values.to_numpy()
    return pd.DataFrame(columns, copy=False)


def _flatten_items(nodes: pa.Table) -> pd.DataFrame:
    lists = nodes["items"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # an empty table has no chunk to combine
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    flat = lists.flatten()
    counts = np.diff(lists.offsets.to_numpy())
    data = {"node_id": np.repeat(nodes["node_id"].to_numpy(), counts)}
    data |= {name: flat.field(name).to_numpy() for name in ("mm_id", "address", "age", "checksum")}
    return pd.DataFrame(data)
