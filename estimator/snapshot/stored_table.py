"""A table of integers that stays where it is: a column is read when asked for, and not kept.

A prediction asks for most columns once. Together they are most of the memory that it would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from estimator.arrays import Empty, Ints, Mask, one_ahead
from estimator.errors import TargetError
from estimator.snapshot.as_arrow import to_arrow

if TYPE_CHECKING:
    from pandas.api.extensions import ExtensionArray

    from estimator.packed import Packed

Batches = Callable[[int, list[str]], Iterator[pa.RecordBatch]]
"""Gives the rows of some columns, so many at most at a time."""

KEPT = frozenset({"frame_id"})
"""The columns that are asked for throughout."""
DAMAGE = (pa.ArrowException, UnicodeDecodeError)
"""What a Parquet file raises that is not as it was written; its pages have checksums."""
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


def rows_at(
    table: pd.DataFrame | StoredTable, names: Sequence[str], rows: npt.NDArray[np.integer]
) -> list[npt.NDArray[Any]]:
    """Some columns, without nulls, of a few ``rows``, in any order."""
    if not isinstance(table, StoredTable):
        return [table[name].to_numpy()[rows] for name in names]
    fields = [table.schema.field(name) for name in names]
    found = [np.empty(len(rows), field.type.to_pandas_dtype()) for field in fields]
    order = np.argsort(rows, kind="stable")
    for piece, some in table.in_pieces(list(names)) if len(rows) else ():
        here = slice(*np.searchsorted(rows, (piece.start, piece.stop), sorter=order))
        for values, name in zip(found, names, strict=True):
            values[order[here]] = some[name].to_numpy()[rows[order[here]] - piece.start]
    return found


class StoredTable:
    """Rows that ``batches`` gives, of an open Parquet file or a collection, used as a DataFrame is.

    ``table["pfn"]`` and ``len(table)`` need one column and none; whatever else a DataFrame can do
    is asked of all columns in memory. A column in ``KEPT`` is held once it was read, and with
    ``empty``, which makes the arrays, every column is. A file stays open: what is read is what was
    checked, whatever becomes of its name, which is ``path``.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        batches: Batches,
        schema: pa.Schema,
        empty: Empty | None = None,
    ):
        self._path, self._rows, self._some, self.schema = path, rows, batches, schema
        self._kept = frozenset(schema.names) if empty else KEPT
        self._empty = empty or np.empty
        self._held: dict[str, pd.Series[Any]] = {}
        self.vma_starts: Ints | None = None  # of mappings, once they are known

    def __len__(self) -> int:
        return self._rows

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
        return iter(self.schema.names)

    @property
    def columns(self) -> pd.Index[str]:
        """The names of the columns."""
        return pd.Index(self.schema.names)

    def __contains__(self, name: object) -> bool:
        return name in self.schema.names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def whole(self) -> pd.DataFrame:
        """All columns, in memory."""
        return self.read(self.schema.names)

    def read(self, names: list[str]) -> pd.DataFrame:
        """Some columns, a piece at a time; TargetError if they are damaged."""
        fields, rows, at = [self.schema.field(name) for name in names], len(self), 0
        columns = {f.name: self._empty(rows, f.type.to_pandas_dtype()) for f in fields}
        masks = {f.name: self._empty(rows, np.bool_) for f in fields if f.nullable}
        for batch in self._batches(names):
            piece = slice(at, at + batch.num_rows)
            for name, column in columns.items():
                if name in masks:
                    column[piece], masks[name][piece] = _apart(batch.column(name))
                else:
                    column[piece] = batch.column(name).to_numpy()
            at = piece.stop
        nullable: dict[str, Any] = {
            name: pd.arrays.IntegerArray(columns[name], mask) for name, mask in masks.items()
        }
        return pd.DataFrame(columns | nullable, copy=False)

    def in_pieces(self, names: list[str]) -> Iterator[tuple[slice, pd.DataFrame]]:
        """See ``in_pieces``; none of it is kept, but for columns in ``KEPT``, nor copied."""
        at, kept = 0, dict[str, npt.NDArray[Any]]()
        for name in KEPT.intersection(names).difference(self._held):
            kept[name] = self._empty(len(self), self.schema.field(name).type.to_pandas_dtype())
        for batch in self._batches(names):
            piece = slice(at, at + batch.num_rows)
            columns = {name: self._values(batch, name) for name in names}
            for name, values in kept.items():
                values[piece] = columns[name]
            yield piece, pd.DataFrame(columns, copy=False)
            at = piece.stop
        for name, values in kept.items():
            self._held[name] = pd.Series(values, name=name, copy=False)

    def _values(self, batch: pa.RecordBatch, name: str) -> npt.NDArray[Any] | ExtensionArray:
        """A column of ``batch``; to be read alone."""
        values = batch.column(name)
        if not self.schema.field(name).nullable:
            return values.to_numpy()
        return pd.arrays.IntegerArray(*_apart(values))

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        return self._checked(names, one_ahead(self._some(_ROWS_AT_ONCE, names)))

    def _checked(
        self, names: list[str], batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                for name in names:
                    require_no_nulls(self._path, self.schema.field(name), batch.column(name))
                yield batch
        except (*DAMAGE, OSError) as error:
            raise unreadable(self._path, error) from error


def unreadable(path: Path, error: Exception) -> TargetError:
    """Of a Parquet file."""
    hint = "the file is damaged: copy the snapshot again, or collect again"
    damaged = isinstance(error, DAMAGE) or not getattr(error, "errno", None)
    return TargetError(f"{path} can't be read: {error}", hint=hint if damaged else None)


def _apart(values: pa.Array) -> tuple[npt.NDArray[Any], Mask]:
    """The numbers, 0 where there is none, and where that is."""
    if not values.null_count:
        return values.to_numpy(), np.zeros(len(values), np.bool_)
    return values.fill_null(0).to_numpy(), values.is_null().to_numpy(zero_copy_only=False)


def of_collection(columns: dict[str, Packed], schema: pa.Schema) -> StoredTable:
    """A table of ``columns``, which stay as they are."""
    rows = len(columns[schema.names[0]])

    def batches(size: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        some = pa.schema([schema.field(name) for name in names])
        for begin in range(0, rows, size):
            here = slice(begin, min(begin + size, rows))
            arrays = [to_arrow(columns[field.name], field, here) for field in some]
            yield pa.RecordBatch.from_arrays(arrays, schema=some)

    return StoredTable(Path("what was collected"), rows, batches, schema)


def require_no_nulls(path: Path, column: pa.Field, values: Any) -> None:
    """Raise TargetError if there are some in a ``column`` that has none."""
    if not column.nullable and values.null_count:
        raise TargetError(f"{path}: column {column.name!r} has nulls")
