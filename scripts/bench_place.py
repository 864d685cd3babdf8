"""How many more machines a data centre holds where alike ones stand together.

Of the shape of Memory Buddies (Wood et al., VEE 2009): hosts of one size, machines of one size that
run one of a few systems, admitted one after the other. Their contents are numbers, not memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import click
import numpy as np

from estimator.fleet.place import Site, greedy, propose, site_of, unlike
from estimator.fleet.sketch import Sketch, _mixed

_HOSTS, _MACHINES, _PAGES = 4, 70, 1000
_HOST_PAGES = 8 * _PAGES
_BASE = 100
"""Pages that all machines have, of the distribution that all run."""


def machine(number: int, kind: int, alike: int) -> Sketch:
    """``alike`` of its pages are of its ``kind``, ``_BASE`` of all machines, the others its own."""
    own = 10**6 + number * _PAGES
    pages = [*range(_BASE), *range(10**4 * (kind + 1), 10**4 * (kind + 1) + alike)]
    pages += range(own, own + _PAGES - len(pages))
    hashes = np.sort(_mixed(np.array(pages, np.uint64)))
    return Sketch(
        seed_id="a",
        host="h",
        unit=str(number),
        machine=True,
        page_bytes=4096,
        memory_pages=_PAGES,
        frames=_PAGES,
        contents=_PAGES,
        hashes=hashes,
        copies=np.ones(_PAGES, np.uint32),
    )


@dataclass(frozen=True)
class Held:
    """Machines that fit, each on the first host with room (``blind``) or where it shares most
    (``aware``), and what no placement can exceed (``bound``).

    ``shared``: of what the machines that ``aware`` placed could share at most between them, what
    they do share as it placed them, and what the proposal of `fleet place` for them shares.
    """

    blind: int
    aware: int
    bound: int
    shared: float
    proposed: float
    proven: bool


def held(kinds: int, alike: int, seed: int, seconds: float) -> Held:
    """Of one data centre; ``seconds`` for HiGHS, 0: the shares are not worked out."""
    rng = np.random.default_rng(seed)
    units = [machine(n, int(rng.integers(kinds)), alike) for n in range(_MACHINES)]
    site = _site(units)
    order = np.arange(_MACHINES)
    blind = int((greedy(site, order, aware=False) >= 0).sum())
    found = greedy(site, order, first=unlike(site))
    aware = int((found >= 0).sum())
    common = _BASE + alike  # no two have more: a host of one kind holds as many as any host can
    bound = min(_MACHINES, _HOSTS * ((_HOST_PAGES - common) // (_PAGES - common)))
    if not seconds:
        return Held(blind, aware, bound, np.nan, np.nan, False)
    placed = np.flatnonzero(found >= 0)
    those = replace(_site([units[unit] for unit in placed]), present=found[placed])
    best = propose(those, seconds)
    assert best is not None  # they stand already
    shared = those.shared_pages(those.present) / best.at_most_pages
    return Held(blind, aware, bound, shared, best.shared_pages / best.at_most_pages, best.proven)


def _site(units: list[Sketch]) -> Site:
    capacity, tenant = np.full(_HOSTS, float(_HOST_PAGES)), np.full(len(units), -1)
    return site_of(units, ["h"], capacity, tenant, after_sharing=True)


def bench_place(rounds: int, seconds: float) -> None:
    """Print a row for each share of alike pages and number of systems, ready for docs/fleet.md."""
    cells = ["pages alike in a system", "systems", "blind", "aware", "at most", "more", "of", "to"]
    cells += ["shares, of the bound", "proposed"]
    click.echo(f"| {' | '.join(cells)} |\n|{' ---: |' * len(cells)}")
    for alike in (200, 350, 500):
        for kinds in (2, 4, 8):
            found = [held(kinds, alike, n, 0 if n else seconds) for n in range(rounds)]
            blind = np.array([one.blind for one in found])
            aware = np.array([one.aware for one in found])
            more, first = 100 * (aware / blind - 1), found[0]
            proposed = f"{100 * first.proposed:.1f} %{' (the best)' if first.proven else ''}"
            click.echo(
                f"| {100 * alike // _PAGES} % | {kinds} | {blind.mean():.1f} | {aware.mean():.1f} "
                f"| {first.bound} | {more.mean():+.0f} % | {more.min():+.0f} % "
                f"| {more.max():+.0f} % | {100 * first.shared:.1f} % | {proposed} |"
            )
