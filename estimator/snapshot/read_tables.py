"""The tables of a snapshot as DataFrames, from Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.arrays import Empty
from estimator.errors import CannotAnswerError, TargetError
from estimator.snapshot.format import FORMAT_VERSION
from estimator.snapshot.format_1 import FORMAT_1_SCHEMAS
from estimator.snapshot.schema import I32, I64, MOST_ROWS, U32, columns_of
from estimator.snapshot.stored_table import DAMAGE, StoredTable, require_no_nulls, unreadable


def read_table(
    place: Path,
    files: Mapping[str, Path | bytes],
    name: str,
    version: int,
    *,
    stored: bool,
    empty: Empty | None = None,
) -> pd.DataFrame | StoredTable:
    """The table ``name`` of the snapshot ``place``, whose ``files`` lie there or are in memory.

    ``stored``: one of integers alone stays in its file, and nothing of it is read; ``empty``: see
    ``StoredTable``. That of stable nodes has ``stable_items`` in its ``attrs["items"]``. Raises
    TargetError for a file that is missing or not as ``columns_of`` has it, CannotAnswerError for
    too many rows.
    """
    path = place / f"{name}.parquet"
    source = files.get(path.name, path)
    try:
        with contextlib.ExitStack() as closing:
            in_memory = isinstance(source, bytes)
            data = pa.BufferReader(source) if in_memory else pa.memory_map(str(source))
            closing.callback(data.close)
            file = pq.ParquetFile(data, page_checksum_verification=True)
            if file.metadata.num_rows >= MOST_ROWS:
                raise CannotAnswerError(
                    f"{path} has {file.metadata.num_rows:,} rows, this program takes less than "
                    f"{MOST_ROWS:,}",
                    hint="collect again with a smaller part of the processes",
                )
            there = file.schema_arrow
            current = version == FORMAT_VERSION
            schema = columns_of(name, there.names) if current else FORMAT_1_SCHEMAS[name]
            _require_columns(path, schema, there)
            if all(pa.types.is_integer(column.type) for column in schema):
                size = int(file.metadata.num_rows)

                def batches(rows: int, names: list[str]) -> Iterator[pa.RecordBatch]:
                    yield from file.iter_batches(rows, columns=names)

                numbers = StoredTable(path, size, batches, schema, empty)
                if not stored:
                    return numbers.whole()
                closing.pop_all()
                return numbers
            table = file.read(columns=schema.names).cast(schema)
    except (*DAMAGE, OSError) as error:
        raise unreadable(path, error) from error
    for column in schema:
        require_no_nulls(path, column, table[column.name])
    if name == "stable_nodes":
        nodes = _to_pandas(table.drop_columns(["items"]))
        nodes.attrs["items"] = _flatten_items(table)
        return nodes
    return _to_pandas(table)


def count_rows(place: Path, files: Mapping[str, Path | bytes], name: str) -> int:
    """How many rows that table has, by its file's footer; raises TargetError as ``read_table``."""
    path = place / f"{name}.parquet"
    source = files.get(path.name, path)
    try:
        read = pq.read_metadata(pa.BufferReader(source) if isinstance(source, bytes) else source)
    except (*DAMAGE, OSError) as error:
        raise unreadable(path, error) from error
    return int(read.num_rows)


def _require_columns(path: Path, schema: pa.Schema, found: pa.Schema) -> None:
    for column in schema:
        if column.name not in found.names:
            raise TargetError(f"{path}: column {column.name!r} is missing")
        type_ = found.field(column.name).type
        if type_ != column.type:
            raise TargetError(f"{path}: column {column.name!r} is {type_}, not {column.type}")


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
