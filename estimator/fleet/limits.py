"""What limits a placement, by a file of lines "UNIT-PATTERN tenant=NAME" or "... apart=GROUP"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np

from estimator.arrays import Ints
from estimator.errors import UsageError
from estimator.units import printable


def limits_of(
    units: Sequence[str], lines: Iterable[str], source: str
) -> tuple[Ints, tuple[frozenset[int], ...]]:
    """The tenant of each unit (i64, -1: none) and the groups that stand on hosts of their own.

    Empty lines and those that begin with # are passed over. Raises UsageError, naming ``source``
    and the line, for what is no such line, fits no unit, or gives a unit two tenants.
    """
    tenants: dict[str, int] = {}
    tenant = np.full(len(units), -1, np.int64)
    apart: dict[str, set[int]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{source}, line {number}"
        key, _, value = words[-1].partition("=")
        if len(words) != 2 or key not in ("tenant", "apart") or not value:
            told = printable(line.strip())
            raise UsageError(f"{where}: {told!r} is not UNIT-PATTERN tenant=NAME or apart=GROUP")
        fits = [place for place, unit in enumerate(units) if fnmatchcase(unit, words[0])]
        if not fits:
            known = ", ".join(map(printable, sorted(set(units))[:5]))
            raise UsageError(
                f"{where}: no unit fits {printable(words[0])}", hint=f"there are {known}"
            )
        if key == "apart":
            apart.setdefault(value, set()).update(fits)
            continue
        name = tenants.setdefault(value, len(tenants))
        for place in fits:
            if tenant[place] not in (-1, name):
                raise UsageError(f"{where}: {printable(units[place])} has another tenant already")
            tenant[place] = name
    return tenant, tuple(map(frozenset, apart.values()))
