"""The columns of a snapshot's tables as Arrow arrays: those of NumPy without pandas' help.

``pyarrow.array`` imports pandas to ask whether what it is given is one of its Series.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from estimator.packed import Packed


def to_arrow(column: Any, field: pa.Field, rows: slice) -> pa.Array:
    """``rows`` of a column of a ``Snapshot``, or of a ``Gathered``, as ``field`` has it."""
    if not isinstance(column, np.ndarray | Packed):
        return pa.array(column.iloc[rows], type=field.type, from_pandas=field.nullable)
    column = column[rows]
    values, size = np.ma.getdata(column), len(column)
    if pa.types.is_string(field.type):
        return _strings(values)
    if pa.types.is_list(field.type):
        offsets = _offsets([len(each) for each in values])
        flat = np.fromiter((n for each in values for n in each), np.int32, offsets[-1])
        return pa.ListArray.from_arrays(
            to_arrow(offsets, pa.field("offsets", pa.int32()), slice(None)),
            to_arrow(flat, field.type.value_field, slice(None)),
        )
    if values.dtype != field.type.to_pandas_dtype():
        raise TypeError(f"{field.name} is {values.dtype}, not {field.type}")
    masked = isinstance(column, np.ma.MaskedArray)
    valid = _bits(~np.ma.getmaskarray(column)) if masked else None
    truths = values.dtype == np.bool_
    buffer = _bits(values) if truths else pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(field.type, size, [valid, buffer])


def _strings(values: npt.NDArray[np.object_]) -> pa.Array:
    """None: null."""
    encoded = [b"" if text is None else text.encode() for text in values]
    valid = np.array([text is not None for text in values], np.bool_)
    buffers = [pa.py_buffer(_offsets([*map(len, encoded)])), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(
        pa.string(), len(values), [None if valid.all() else _bits(valid), *buffers]
    )


def _offsets(lengths: list[int]) -> npt.NDArray[np.int32]:
    return np.cumsum([0, *lengths], dtype=np.int32)


def _bits(truths: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(truths, bitorder="little"))
