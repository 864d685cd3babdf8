"""Tables of integers put together from the rows of others, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Empty, Numbers, Words, made, numbers_where, pieces
from estimator.snapshot.stored_table import StoredTable

IntegerColumns = dict[str, Any]
"""By name: a NumPy array, or an ``IntegerArray`` where there may be nulls."""


@dataclass(frozen=True)
class Rows:
    """Some ``rows`` (i32) of a table, and which rows of the new one they become (i32)."""

    table: pd.DataFrame | StoredTable
    rows: Numbers
    to: Numbers


def counted(begin: int, end: int, empty: Empty) -> Numbers:
    """The numbers from ``begin`` to before ``end``, i32."""
    return made(
        end - begin,
        np.int32,
        lambda piece: np.arange(begin + piece.start, begin + piece.stop, dtype=np.int32),
        empty,
    )


def joined(parts: Sequence[Rows], empty: Empty) -> IntegerColumns:
    """The columns of the first part's table, of the rows of all parts.

    Each row of the new table has to be in one of the parts. Where a part lacks a column there are
    nulls, or 0 if it has none. ``empty``: makes its arrays.
    """
    size = sum(len(part.to) for part in parts)
    names = map(str, parts[0].table)
    return {name: _joined_column(name, parts, size, empty) for name in names}


def _joined_column(name: str, parts: Sequence[Rows], size: int, empty: Empty) -> Any:
    dtype: Any = parts[0].table[name].dtype
    nullable = isinstance(dtype, pd.api.extensions.ExtensionDtype)
    values = empty(size, dtype.numpy_dtype if nullable else dtype)
    mask = empty(size, np.bool_) if nullable else np.zeros(0, np.bool_)
    for part in parts:
        if name not in part.table:
            values[part.to] = 0
            if nullable:
                mask[part.to] = True
            continue
        column = part.table[name].array
        for piece in pieces(len(part.to)):
            some, to = column.take(part.rows[piece]), part.to[piece]
            if nullable:
                mask[to] = pd.isna(some)
                some = some.to_numpy(values.dtype, na_value=0)
            values[to] = some
    return pd.arrays.IntegerArray(values, mask) if nullable else values


def merged_order(
    size: int, keys: Callable[[slice], Words], others: Words, empty: Empty
) -> tuple[Numbers, Numbers]:
    """Where rows come when those of two tables are put in order: of one, and of the other, i32.

    ``keys``: gives a piece of the ``size`` keys of one; ``others``: of the other. Both ascend.
    """
    at: Numbers = made(
        size,
        np.int32,
        lambda piece: np.arange(piece.start, piece.stop) + np.searchsorted(others, keys(piece)),
        empty,
    )
    free = empty(size + len(others), np.bool_)
    free[:] = True
    for piece in pieces(size):
        free[at[piece]] = False
    return at, numbers_where(free, empty)


def with_columns(table: pd.DataFrame | StoredTable, **columns: Any) -> pd.DataFrame:
    """``table`` with other ``columns``; nothing is copied."""
    there: IntegerColumns = {str(name): table[name].array for name in table}
    return pd.DataFrame(there | columns, copy=False)
