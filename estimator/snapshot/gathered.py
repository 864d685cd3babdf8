"""The tables of one snapshot as columns of NumPy: what a collection makes, without pandas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns
from estimator.packed import Packed

if TYPE_CHECKING:
    from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Gathered:
    """What a ``Snapshot`` holds, in the same order of rows; to be written, or to be asked.

    A column is an array, or ``Packed``, of the type that ``columns_of`` says; masked where values
    are null. Strings and lists are arrays of objects, None where null. ``stable_items`` has the
    columns of ``Snapshot.stable_items``, by node_id.
    """

    info: dict[str, Any]
    processes: Columns
    vmas: Columns
    mappings: dict[str, Packed]
    frames: dict[str, Packed]
    stable_nodes: Columns = field(repr=False)
    stable_items: Columns = field(repr=False)
    other_mappings: dict[str, Packed] | None = field(default=None, repr=False)
    other_frames: dict[str, Packed] | None = field(default=None, repr=False)

    def snapshot(self, *, stored: bool = False) -> Snapshot:
        """The same as DataFrames, which share the memory of columns that are arrays.

        ``stored``: ``mappings`` and ``frames`` stay as they are, as of ``open_snapshot``; and what
        there is of other memory is left out.
        """
        import pandas as pd

        from estimator.snapshot.schema import SCHEMAS, TABLES, columns_of
        from estimator.snapshot.snapshot import Snapshot
        from estimator.snapshot.stored_table import of_collection

        packed = ("mappings", "frames") if stored else ()
        tables: dict[str, Any] = {
            name: of_collection(getattr(self, name), columns_of(name, getattr(self, name)))
            for name in packed
        }
        tables |= {
            name: pd.DataFrame(
                {
                    f.name: _series(getattr(self, name)[f.name], f.nullable)
                    for f in columns_of(name, getattr(self, name))
                    if f.name != "items"
                },
                copy=False,
            )
            for name in (SCHEMAS if stored else TABLES)
            if getattr(self, name) is not None and name not in packed
        }
        return Snapshot(self.info, stable_items=pd.DataFrame(self.stable_items), **tables)


def objects(values: list[Any]) -> npt.NDArray[np.object_]:
    """Strings or lists as an array of one dimension, object (n,)."""
    return np.fromiter(values, np.object_, len(values))


def _series(column: npt.NDArray[Any] | Packed, nullable: bool) -> Any:
    """Numbers and truths that may be null as pandas' own nullable types."""
    import pandas as pd

    values = column[:]
    if not nullable or values.dtype == np.object_:
        return values
    array = pd.arrays.BooleanArray if values.dtype == np.bool_ else pd.arrays.IntegerArray
    return array(np.ma.getdata(values), np.ma.getmaskarray(values))
