"""Placement as a mixed-integer program, for HiGHS through SciPy: the best there is, or a bound.

``x[unit, host]``: it stands there. ``y[set, host]``: a content of that set is there, at least once;
what the sum of y is less than all contents is shared. Capacity after sharing is linear in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints
from estimator.fleet.place import Site

_MOST_ROWS = 400_000
"""Larger ones are for ``greedy``: HiGHS would spend its time before the first bound."""


@dataclass(frozen=True)
class Exact:
    """``placement``: None where none was found in time; ``at_most_pages``: no other shares more."""

    placement: Ints | None
    at_most_pages: float


def solve(site: Site, seconds: float) -> Exact | None:
    """The best placement, or the best one and bound found in ``seconds``; None: it is too large.

    A placement of None and a bound of minus infinity: there is none within the limits.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    several = site.has.sum(axis=0) > 1
    has, pages = site.has[:, several], site.pages[several]
    units, sets, hosts = has.shape[0], has.shape[1], site.hosts
    tenants = np.unique(site.tenant[site.tenant >= 0])
    pairs = int(has.sum())
    if pairs * hosts > _MOST_ROWS:
        return None
    y_from = units * hosts
    z_from = y_from + sets * hosts
    columns = z_from + len(tenants) * hosts

    def x(unit: int, host: int) -> int:
        return unit * hosts + host

    rows: list[tuple[list[int], list[float], float, float]] = []
    for unit in range(units):
        rows.append(([x(unit, h) for h in range(hosts)], [1.0] * hosts, 1, 1))
    shared_pages = has @ pages
    for host in range(hosts):
        places = [x(unit, host) for unit in range(units)]
        if site.after_sharing:  # memory less shared contents, plus each of these that is there
            used = [*(site.memory - shared_pages), *pages]
            places += [y_from + s * hosts + host for s in range(sets)]
        else:
            used = [*site.memory]
        rows.append((places, used, -np.inf, float(site.capacity[host])))
        for group in site.apart:
            rows.append(([x(u, host) for u in group], [1.0] * len(group), -np.inf, 1))
        if len(tenants):
            its = [z_from + t * hosts + host for t in range(len(tenants))]
            rows.append((its, [1.0] * len(its), -np.inf, 1))
            for t, tenant in enumerate(tenants):
                for unit in np.flatnonzero(site.tenant == tenant).tolist():
                    rows.append(([x(unit, host), its[t]], [1.0, -1.0], -np.inf, 0))
        for unit, s in np.argwhere(has).tolist():
            rows.append(([x(unit, host), y_from + s * hosts + host], [1.0, -1.0], -np.inf, 0))
    lengths = [len(row[0]) for row in rows]
    matrix = sparse.csr_array(
        (
            np.concatenate([row[1] for row in rows]),
            np.concatenate([row[0] for row in rows]),
            np.concatenate([[0], np.cumsum(lengths)]),
        ),
        shape=(len(rows), columns),
    )
    cost = np.zeros(columns)
    cost[y_from:z_from] = np.repeat(pages, hosts)
    whole = np.ones(columns)
    whole[y_from:z_from] = 0  # they follow from x
    found = milp(
        cost,
        integrality=whole,
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, [r[2] for r in rows], [r[3] for r in rows]),
        options={"time_limit": seconds},
    )
    all_pages = float(shared_pages.sum())
    if found.status == 2:  # infeasible
        return Exact(None, -np.inf)
    bound = found.mip_dual_bound if found.mip_dual_bound is not None else 0.0
    placement = None
    if found.x is not None:
        placement = found.x[:y_from].reshape(units, hosts).argmax(axis=1).astype(np.int64)
    return Exact(placement, all_pages - float(bound))
