"""A table of integers that stays in its file: a column is read when it is asked for, and not kept.

A prediction asks for most columns once. Together they are most of the memory that it would take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from estimator.arrays import Empty
from estimator.errors import TargetError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ROWS_AT_ONCE = 1 << 17  # decoded: more take more memory and no less time


def in_pieces(
    table: pd.DataFrame | StoredTable, names: Sequence[str]
) -> Iterator[tuple[slice, pd.DataFrame]]:
    """Some columns of all rows, a piece at a time: which rows these are, and the columns."""
    if isinstance(table, StoredTable):
        yield from table.in_pieces(list(names))
        return
    columns = {name: table[name] for name in names}
    for begin in range(0, len(table), _ROWS_AT_ONCE):
        piece = slice(begin, min(begin + _ROWS_AT_ONCE, len(table)))
        yield piece, pd.DataFrame({name: each.iloc[piece] for name, each in columns.items()})


class StoredTable:
    """The rows of an open Parquet file, used as a DataFrame is.

    ``table["pfn"]`` and ``len(table)`` need one column and none; whatever else a DataFrame can do
    is asked of all columns in memory. A column in ``kept`` is held once it was read, and with
    ``empty``, which makes the arrays, every column is. The file stays open: what is read is what
    was checked, whatever becomes of its name.
    """

    def __init__(
        self,
        path: Path,
        file: pq.ParquetFile,
        schema: pa.Schema,
        kept: frozenset[str],
        empty: Empty | None = None,
    ):
        self._path, self._file, self._schema = path, file, schema
        self._kept = frozenset(schema.names) if empty else kept
        self._empty = empty or np.empty
        self._held: dict[str, pd.Series[Any]] = {}

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self.whole()[key]
        if key in self._held:
            return self._held[key]
        column = self.read([key])[key]
        if key in self._kept:
            self._held[key] = column
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.names)

    @property
    def columns(self) -> pd.Index[str]:
        """The names of the columns."""
        return pd.Index(self._schema.names)

    def __contains__(self, name: object) -> bool:
        return name in self._schema.names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def whole(self) -> pd.DataFrame:
        """All columns, in memory."""
        return self.read(self._schema.names)

    def read(self, names: list[str]) -> pd.DataFrame:
        """Some columns, a piece at a time; TargetError if they are damaged."""
        return self._decoded(names, len(self), self._batches(names), self._empty)

    def in_pieces(self, names: list[str]) -> Iterator[tuple[slice, pd.DataFrame]]:
        """See ``in_pieces``; none of it is kept."""
        at = 0
        for batch in self._batches(names):
            piece = slice(at, at + batch.num_rows)
            yield piece, self._decoded(names, batch.num_rows, [batch], np.empty)
            at = piece.stop

    def _decoded(
        self, names: list[str], rows: int, batches: Iterable[pa.RecordBatch], empty: Empty
    ) -> pd.DataFrame:
        fields, at = [self._schema.field(name) for name in names], 0
        columns = {f.name: empty(rows, f.type.to_pandas_dtype()) for f in fields}
        masks = {f.name: empty(rows, np.bool_) for f in fields if f.nullable}
        for batch in batches:
            piece = slice(at, at + batch.num_rows)
            for field in fields:
                values = batch.column(field.name)
                if field.nullable:
                    masks[field.name][piece] = values.is_null()
                    values = values.fill_null(0)
                columns[field.name][piece] = values
            at = piece.stop
        nullable: dict[str, Any] = {
            name: pd.arrays.IntegerArray(columns[name], mask) for name, mask in masks.items()
        }
        return pd.DataFrame(columns | nullable, copy=False)

    def require_readable(self) -> None:
        """Raise TargetError if anything of it is damaged."""
        for _ in self._batches(self._schema.names):
            pass

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=names):
                for name in names:
                    require_no_nulls(self._path, self._schema.field(name), batch.column(name))
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise TargetError(f"{self._path} can't be read: {error}") from error


def require_no_nulls(path: Path, column: pa.Field, values: Any) -> None:
    """Raise TargetError if there are some in a ``column`` that has none."""
    if not column.nullable and values.null_count:
        raise TargetError(f"{path}: column {column.name!r} has nulls")
