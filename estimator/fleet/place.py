"""Which units to put on which host, so that those with most contents in common share.

Frames of one content on one host become one: a host needs as many frames as there are different
contents on it. What is looked for is the placement with the fewest contents, counted host by host,
of those that the limits allow. Sharing inside a unit does not depend on where it stands and is kept
apart, as Barker et al. (USENIX ATC 2012) do: most of all sharing is inside.

Contents are known by samples (``sketch``), taken below one threshold for all, and counted by who
has them: a *set* is the units that have a content, ``pages`` how many contents are had by exactly
these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints
from estimator.fleet.sketch import Sketch

_ALL = float(1 << 64)
_ROUNDS = 20
_FULL = 1e-9


@dataclass(frozen=True)
class Site:
    """Units and hosts, with what limits where they stand.

    ``has``: bool (units, sets). ``pages``: f64 (sets,), contents of each. ``memory``: f64 (units,),
    pages that a unit takes; ``capacity``: f64 (hosts,), pages. ``present``: i64 (units,), the host
    of each. ``tenant``: i64 (units,), units of two tenants never share a host, but -1 with any.
    ``apart``: sets of units that stand on different hosts. ``after_sharing``: contents on a host
    count once against its capacity.
    """

    has: npt.NDArray[np.bool_]
    pages: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]
    capacity: npt.NDArray[np.float64]
    present: Ints
    tenant: Ints
    apart: tuple[frozenset[int], ...] = ()
    after_sharing: bool = False

    @property
    def hosts(self) -> int:
        """How many there are."""
        return len(self.capacity)

    @property
    def contents(self) -> float:
        """Contents of all units, each with its own: what they take with nobody beside them."""
        return float((self.has @ self.pages).sum())

    def shared_pages(self, placement: Ints) -> float:
        """Frames that sharing between units of one host frees."""
        return sum(self.shared_on(placement == host) for host in range(self.hosts))

    def shared_on(self, units: npt.NDArray[np.bool_]) -> float:
        """The same where ``units`` (bool per unit) stand together."""
        holders = self.has[units].sum(axis=0)
        return float(self.pages @ np.maximum(holders - 1, 0))

    def fits(self, units: npt.NDArray[np.bool_], host: int) -> bool:
        """Whether ``units`` (bool per unit) may stand together on ``host``."""
        used = float(self.memory[units].sum())
        if self.after_sharing:
            used -= self.shared_on(units)
        tenants = np.unique(self.tenant[units & (self.tenant >= 0)])
        together = all(sum(bool(units[one]) for one in group) <= 1 for group in self.apart)
        return used <= self.capacity[host] * (1 + _FULL) and len(tenants) <= 1 and together

    def allowed(self, placement: Ints) -> bool:
        """Whether every unit stands somewhere, within all limits."""
        everywhere = bool((placement >= 0).all())
        return everywhere and all(self.fits(placement == h, h) for h in range(self.hosts))

    def most_shared(self) -> float:
        """No placement shares more: each tenant's units all together, whatever they take.

        A content of several tenants stays once for each; units of no tenant can be with any.
        """
        tenants = [t for t in np.unique(self.tenant) if t >= 0]
        anybody = self.has[self.tenant < 0].any(axis=0)
        kept = sum(self.has[self.tenant == t].any(axis=0).astype(int) for t in tenants)
        fewest = np.maximum(np.asarray(kept), anybody)
        return self.contents - float(self.pages @ fewest)


def site_of(
    units: Sequence[Sketch],
    hosts: Sequence[str],
    capacity_pages: npt.NDArray[np.float64],
    tenant: Ints,
    apart: tuple[frozenset[int], ...] = (),
    *,
    after_sharing: bool = False,
) -> Site:
    """What ``units`` have in common, by their samples; ``hosts``: by name, as in the sketches."""
    below = min(unit.below for unit in units)
    samples = [
        unit.hashes[: np.searchsorted(unit.hashes, np.uint64(below - 1), "right")] for unit in units
    ]
    contents = np.unique(np.concatenate(samples))
    has = np.zeros((len(units), len(contents)), np.bool_)
    for row, sample in enumerate(samples):
        has[row, np.searchsorted(contents, sample)] = True
    sets, counts = np.unique(has, axis=1, return_counts=True)
    memory = np.array([unit.memory_pages for unit in units], np.float64)
    if after_sharing:  # sharing inside a unit is there wherever it stands
        memory -= [unit.self_sharing_pages for unit in units]
    number = {host: place for place, host in enumerate(hosts)}
    return Site(
        has=sets,
        pages=counts.astype(np.float64) * (_ALL / below),
        memory=memory,
        capacity=capacity_pages,
        present=np.array([number[unit.host] for unit in units], np.int64),
        tenant=tenant,
        apart=apart,
        after_sharing=after_sharing,
    )


def unlike(site: Site) -> list[int]:
    """A unit to begin each host with: the largest, then whatever shares least with those chosen.

    Else one host would take all, for the little that everybody has in common.
    """
    chosen = [int(np.argmax(site.memory))] if len(site.memory) else []
    most = np.zeros(len(site.memory))
    while chosen and len(chosen) < min(site.hosts, len(site.memory)):
        most = np.maximum(most, (site.has & site.has[chosen[-1]]) @ site.pages)
        most[chosen] = np.inf
        chosen.append(int(np.argmin(most)))
    return chosen


def greedy(
    site: Site, order: Ints | None = None, *, aware: bool = True, first: Sequence[int] = ()
) -> Ints:
    """One unit after the other, the largest first (``order``: or so), where it shares most.

    ``first``: those that stand on hosts 0, 1 ... from the beginning. Not ``aware``: where it fits
    first. i64 (units,); -1: there was no room.
    """
    placement = np.full(len(site.memory), -1, np.int64)
    for host, unit in enumerate(first):
        if site.fits(np.arange(len(placement)) == unit, host):
            placement[unit] = host
    for unit in np.argsort(-site.memory, kind="stable") if order is None else order:
        if placement[unit] >= 0:
            continue
        best, gain = -1, -1.0
        for host in range(site.hosts):
            there = placement == host
            before = site.shared_on(there) if aware else 0.0
            there[unit] = True
            if not site.fits(there, host):
                continue
            if not aware:
                best = host
                break
            if site.shared_on(there) - before > gain:
                best, gain = host, site.shared_on(there) - before
        placement[unit] = best
    return placement


def improve(site: Site, placement: Ints) -> Ints:
    """Move single units and swap pairs as long as that shares more; within the limits."""
    placement = placement.copy()
    shared = [site.shared_on(placement == host) for host in range(site.hosts)]

    def try_out(changed: dict[int, int]) -> bool:
        hosts = {int(placement[unit]) for unit in changed} | set(changed.values())
        before = {unit: int(placement[unit]) for unit in changed}
        for unit, host in changed.items():
            placement[unit] = host
        now = {host: site.shared_on(placement == host) for host in hosts}
        better = sum(now.values()) > sum(shared[host] for host in hosts) + _FULL
        if better and all(site.fits(placement == host, host) for host in hosts):
            for host, pages in now.items():
                shared[host] = pages
            return True
        for unit, host in before.items():
            placement[unit] = host
        return False

    units = range(len(placement))
    for _ in range(_ROUNDS):
        moved = [try_out({unit: host}) for unit in units for host in range(site.hosts)]
        swapped = [
            try_out({one: int(placement[other]), other: int(placement[one])})
            for one in units
            for other in range(one)
            if placement[one] != placement[other]
        ]
        if not any(moved) and not any(swapped):
            break
    return placement


@dataclass(frozen=True)
class Proposal:
    """A placement, and how good any could be.

    ``placement``: i64 (units,), a host each. ``shared_pages``: what it shares between units;
    ``at_most_pages``: no placement shares more. ``solver``: what found it; ``proven``: it is one of
    the best.
    """

    placement: Ints
    shared_pages: float
    at_most_pages: float
    solver: str
    proven: bool


def propose(site: Site, seconds: float) -> Proposal | None:
    """The best placement found in about ``seconds``; None: none within the limits was found.

    Where the present one is allowed, it is never worse.
    """
    from estimator.fleet.place_exact import solve

    starts = [greedy(site), greedy(site, first=unlike(site)), site.present]
    allowed = [improve(site, start) for start in starts if site.allowed(start)]
    best = max(allowed, key=site.shared_pages, default=None)
    at_most, solver = site.most_shared(), "greedy"
    exact = solve(site, seconds)
    if exact is not None:
        at_most = min(at_most, exact.at_most_pages)
        placement = exact.placement
        if placement is not None and site.allowed(placement):
            placement = improve(site, placement)
            if best is None or site.shared_pages(placement) > site.shared_pages(best) + _FULL:
                best, solver = placement, "HiGHS"
    if best is None:
        return None
    shared = site.shared_pages(best)
    at_most = max(at_most, shared)
    proven = at_most - shared <= 1e-6 * max(at_most, 1)
    return Proposal(best, shared, at_most, solver, proven)
