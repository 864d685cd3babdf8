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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.errors import CannotAnswerError, TargetError
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.format_1 import FORMAT_1_SCHEMAS, from_format_1
from estimator.snapshot.schema import (
    FORMAT_VERSION,
    I32,
    I64,
    MOST_ROWS,
    ROW_GROUP_ROWS,
    SCHEMAS,
    U32,
)
from estimator.snapshot.snapshot import Snapshot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ASCENDING = {"pfn", "head_pfn", "page_index", "frame_id"}
_ROWS_AT_ONCE = 1 << 17  # decoded: more take more memory and no less time


def _to_arrow(name: str, frame: pd.DataFrame) -> pa.Table:
    schema = SCHEMAS[name]
    arrays = [pa.array(frame[f.name], type=f.type, from_pandas=f.nullable) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _row_groups(name: str, frame: pd.DataFrame) -> Iterator[pa.Table]:
    for start in range(0, len(frame), ROW_GROUP_ROWS):
        yield _to_arrow(name, frame.iloc[start : start + ROW_GROUP_ROWS])


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
    try:
        directory = os.open(temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        written: list[str] = []
        try:
            _require_ours(directory)
            _fill(snapshot, directory, written)
            _refuse_existing(name, parent)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            for left in written:
                os.unlink(left, dir_fd=directory)
            raise
        finally:
            os.close(directory)
    except BaseException:
        with contextlib.suppress(OSError):  # what somebody else put in its place is left alone
            os.rmdir(temporary, dir_fd=parent)
        raise
    with contextlib.suppress(OSError):  # it is there, even if a power cut may undo the rename
        os.fsync(parent)


def _fill(snapshot: Snapshot, directory: int, written: list[str]) -> None:
    """Write the files of ``snapshot``, and their names into ``written``."""
    for table_name in SCHEMAS:
        groups = (
            iter([_nest_items(snapshot.stable_nodes, snapshot.stable_items)])
            if table_name == "stable_nodes"
            else _row_groups(table_name, getattr(snapshot, table_name))
        )
        with _create(f"{table_name}.parquet", directory, written) as file:
            _write_table(table_name, groups, file)
            _bring_to_disk(file)
    with _create("snapshot.json", directory, written) as file:
        file.write(json.dumps(snapshot.info, indent=1).encode())
        _bring_to_disk(file)
    os.fsync(directory)


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


def _create(name: str, directory: int, written: list[str]) -> Any:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    file = os.open(name, flags, 0o600, dir_fd=directory)
    written.append(name)
    return os.fdopen(file, "wb")


def _bring_to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_table(name: str, groups: Iterator[pa.Table], file: Any) -> None:
    """In row groups: nobody has to hold all rows twice. Numbers that go up are differences."""
    schema = SCHEMAS[name]
    names = {field.name for field in schema if pa.types.is_integer(field.type)}
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[f.name for f in schema if pa.types.is_string(f.type)],
        column_encoding=dict.fromkeys(names & _ASCENDING, "DELTA_BINARY_PACKED"),
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)


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

    Format 1 is read too. Raises TargetError for a missing file, a newer format, a missing column,
    a wrong type, and for rows whose order or numbers can't be those of a collection (``checks``);
    CannotAnswerError for more rows than there are numbers for.
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
    if version not in (1, FORMAT_VERSION):
        raise TargetError(
            f"{directory} has snapshot format {version}, this program reads 1 to {FORMAT_VERSION}",
            hint="use the version of ksm-estimator that wrote it, or collect again",
        )
    tables = {name: _read_table(directory / f"{name}.parquet", name, version) for name in SCHEMAS}
    snapshot = Snapshot(info=info, stable_items=tables["stable_nodes"].attrs.pop("items"), **tables)
    if version == 1:
        snapshot = from_format_1(snapshot)
    check_snapshot(str(directory), snapshot)
    return snapshot


def _read_table(path: Path, name: str, version: int) -> pd.DataFrame:
    """The table ``name``; that of stable nodes has ``stable_items`` in its ``attrs["items"]``."""
    schema = SCHEMAS[name] if version == FORMAT_VERSION else FORMAT_1_SCHEMAS[name]
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if file.metadata.num_rows >= MOST_ROWS:
                raise CannotAnswerError(
                    f"{path} has {file.metadata.num_rows:,} rows, this program takes less than "
                    f"{MOST_ROWS:,}",
                    hint="collect again with a smaller part of the processes",
                )
            _require_columns(path, schema, file.schema_arrow)
            if all(pa.types.is_integer(column.type) for column in schema):
                return _read_numbers(path, file, schema)
            table = file.read(columns=schema.names).cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise TargetError(f"{path} can't be read: {error}") from error
    for column in schema:
        _require_no_nulls(path, column, table[column.name])
    if name == "stable_nodes":
        nodes = _to_pandas(table.drop_columns(["items"]))
        nodes.attrs["items"] = _flatten_items(table)
        return nodes
    return _to_pandas(table)


def _require_columns(path: Path, schema: pa.Schema, found: pa.Schema) -> None:
    for column in schema:
        if column.name not in found.names:
            raise TargetError(f"{path}: column {column.name!r} is missing")
        type_ = found.field(column.name).type
        if type_ != column.type:
            raise TargetError(f"{path}: column {column.name!r} is {type_}, not {column.type}")


def _require_no_nulls(path: Path, column: pa.Field, values: Any) -> None:
    if not column.nullable and values.null_count:
        raise TargetError(f"{path}: column {column.name!r} has nulls")


def _read_numbers(path: Path, file: pq.ParquetFile, schema: pa.Schema) -> pd.DataFrame:
    """A table of integers, a piece at a time: all rows are held once."""
    rows = file.metadata.num_rows
    columns = {f.name: np.empty(rows, f.type.to_pandas_dtype()) for f in schema}
    masks = {f.name: np.empty(rows, np.bool_) for f in schema if f.nullable}
    at = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=schema.names):
        piece = slice(at, at + batch.num_rows)
        for column in schema:
            values = batch.column(column.name)
            _require_no_nulls(path, column, values)
            if column.nullable:
                masks[column.name][piece] = values.is_null()
                values = values.fill_null(0)
            columns[column.name][piece] = values
        at = piece.stop
    nullable = {name: pd.arrays.IntegerArray(columns[name], mask) for name, mask in masks.items()}
    return pd.DataFrame(columns | nullable, copy=False)


_NULLABLE: dict[pa.DataType, Any] = {
    U32: pd.UInt32Dtype(),
    I32: pd.Int32Dtype(),
    I64: pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """NumPy columns; nullable integers and booleans as pandas' own nullable types."""
    return pd.DataFrame(
        {
            column.name: table[column.name].to_pandas(types_mapper=_NULLABLE.get)
            if column.nullable
            else table[column.name].to_numpy()
            for column in table.schema
        }
    )


def _flatten_items(nodes: pa.Table) -> pd.DataFrame:
    lists = nodes["items"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # an empty table has no chunk to combine
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    flat = lists.flatten()
    counts = np.diff(lists.offsets.to_numpy())
    data = {"node_id": np.repeat(nodes["node_id"].to_numpy(), counts)}
    data |= {name: flat.field(name).to_numpy() for name in ("mm_id", "address", "age", "checksum")}
    return pd.DataFrame(data)
