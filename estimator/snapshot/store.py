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

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.errors import TargetError
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.schema import FORMAT_VERSION, I64, SCHEMAS, U32, U64
from estimator.snapshot.snapshot import Snapshot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ASCENDING = {"pfn", "head_pfn", "page_index", "frame_id"}


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


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write ``snapshot`` to the new directory ``path`` (0700, files 0600).

    Built beside ``path``, brought to the disk, and renamed at the end: a snapshot that exists is
    complete, after a power cut too. Raises TargetError if ``path`` exists or can't be written, for
    want of space or rights; nothing is left behind then.
    """
    check_output(path)
    try:
        parent = os.open(path.parent, _DIRECTORY)
        try:
            _write(snapshot, path.name, parent)
        finally:
            os.close(parent)
    except OSError as error:
        what = error.strerror or str(error)
        raise TargetError(
            f"{path} can't be written: {what}; nothing is left of it",
            hint="write it elsewhere" if error.errno in _NO_SPACE else None,
        ) from error


def _write(snapshot: Snapshot, name: str, parent: int) -> None:
    """Write it as ``name`` in the directory open as ``parent``, whoever else may write there."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    os.mkdir(temporary, 0o700, dir_fd=parent)
    directory = os.open(temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        _require_ours(directory)
        for table_name in SCHEMAS:
            table = (
                _nest_items(snapshot.stable_nodes, snapshot.stable_items)
                if table_name == "stable_nodes"
                else _to_arrow(table_name, getattr(snapshot, table_name))
            )
            with _create(f"{table_name}.parquet", directory) as file:
                _write_table(table, file)
                _bring_to_disk(file)
        with _create("snapshot.json", directory) as file:
            file.write(json.dumps(snapshot.info, indent=1).encode())
            _bring_to_disk(file)
        os.fsync(directory)
        _refuse_existing(name, parent)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        for left in os.listdir(directory):
            os.unlink(left, dir_fd=directory)
        os.rmdir(temporary, dir_fd=parent)
        raise
    finally:
        os.close(directory)
    os.fsync(parent)


def _require_ours(directory: int) -> None:
    """Raise OSError if the open directory is not the one just made: somebody put another there."""
    status = os.fstat(directory)
    if status.st_uid != os.geteuid() or os.listdir(directory):
        raise OSError(errno.EEXIST, "somebody else writes to this directory")


def _refuse_existing(name: str, parent: int) -> None:
    """Raise OSError if ``name`` has appeared: rename() would replace an empty directory."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _create(name: str, directory: int) -> Any:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb")


def _bring_to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_table(table: pa.Table, file: Any) -> None:
    """In one row group: it is read without joining pieces. Numbers that go up are differences."""
    names = {field.name for field in table.schema if pa.types.is_integer(field.type)}
    pq.write_table(
        table,
        file,
        compression="zstd",
        compression_level=1,
        row_group_size=max(table.num_rows, 1),
        use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
        column_encoding=dict.fromkeys(names & _ASCENDING, "DELTA_BINARY_PACKED"),
    )


def check_output(path: Path) -> None:
    """Raise TargetError if a snapshot can't be made at ``path``; say so before any long work."""
    if os.path.lexists(path):
        raise TargetError(f"{path} exists already", hint="choose another name or remove it")
    if not path.parent.is_dir():
        raise TargetError(f"{path.parent} is not a directory", hint=f"mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise TargetError(f"{path.parent} can't be written", hint="choose another directory")


def open_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read the snapshot directory ``path``.

    Raises TargetError for a missing file, a newer format, a missing column, a wrong type, and for
    rows whose order or numbers can't be those of a collection (``checks``).
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
    snapshot = Snapshot(
        info=info,
        stable_nodes=_to_pandas(nodes.drop_columns(["items"])),
        stable_items=_flatten_items(nodes),
        **frames,
    )
    check_snapshot(str(directory), snapshot)
    return snapshot


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
    U64: pd.UInt64Dtype(),
    U32: pd.UInt32Dtype(),
    I64: pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """NumPy columns; nullable integers and booleans as pandas' own nullable types."""
    columns: dict[str, Any] = {}
    for column in table.schema:
        values = table[column.name]
        if column.type == U64 and column.nullable and values.num_chunks == 1:
            mask = values.is_null().to_numpy()
            numbers = values.chunk(0).fill_null(0).to_numpy()  # not copied where none is null
            columns[column.name] = pd.arrays.IntegerArray(numbers, mask)
        elif column.nullable:
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
