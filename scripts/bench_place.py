"""How many more machines a data centre holds where alike ones stand together.

Of the shape of Memory Buddies (Wood et al., VEE 2009): hosts of one size, machines of one size that
run one of a few systems, admitted one after the other. Their contents are numbers, not memory.
"""

from __future__ import annotations

import click
import numpy as np

from estimator.fleet.place import greedy, site_of, unlike
from estimator.fleet.sketch import Sketch, _mixed

_HOSTS, _MACHINES, _PAGES = 4, 70, 1000
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


def held(kinds: int, alike: int, seed: int) -> tuple[int, int]:
    """Machines that fit: each on the first host with room, and where it shares most."""
    rng = np.random.default_rng(seed)
    units = [machine(n, int(rng.integers(kinds)), alike) for n in range(_MACHINES)]
    site = site_of(
        units,
        ["h"],
        np.full(_HOSTS, 8.0 * _PAGES),
        np.full(_MACHINES, -1),
        after_sharing=True,
    )
    order = np.arange(_MACHINES)
    blind = greedy(site, order, aware=False)
    aware = greedy(site, order, first=unlike(site))
    return int((blind >= 0).sum()), int((aware >= 0).sum())


def bench_place(rounds: int) -> None:
    """Print a row for each share of alike pages and number of systems, ready for docs/fleet.md."""
    cells = ["pages alike in a system", "systems", "blind", "aware", "more", "of", "to"]
    click.echo(f"| {' | '.join(cells)} |\n|{' ---: |' * len(cells)}")
    for alike in (200, 350, 500):
        for kinds in (2, 4, 8):
            found = np.array([held(kinds, alike, seed) for seed in range(rounds)], float)
            more = 100 * (found[:, 1] / found[:, 0] - 1)
            blind, aware = found.mean(axis=0)
            click.echo(
                f"| {100 * alike // _PAGES} % | {kinds} | {blind:.1f} | {aware:.1f} | "
                f"{more.mean():+.0f} % | {more.min():+.0f} % | {more.max():+.0f} % |"
            )
