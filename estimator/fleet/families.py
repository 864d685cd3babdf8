"""What every set of services would save on a host, small enough to be added up over a fleet.

A frame of a content becomes free if all who map it take part, but for one frame that the content
keeps if anybody does. So a host saves, with a set S of services opted in,

    sum of ``freed`` of each set of services within S
    less the sum of ``kept`` of each *family* (sets of services) of which any is within S

and both are sums over contents: how many there are of a kind does not matter, and hosts that run
the same services add up row by row. No page of one host merges with one of another.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd

from estimator.advice.frontier import frontier
from estimator.advice.patterns import Patterns

COLUMNS = ["kept", "family", "bytes"]


def families(found: Patterns, names: list[str], page_bytes: int) -> pd.DataFrame:
    """The rows of one host.

    ``names``: of the pieces of ``found``. Columns: kept (bool), family (str, JSON: a list of lists
    of names; of one list where it is not kept), bytes (i64).
    """
    members: dict[int, list[str]] = defaultdict(list)
    for group, piece in zip(found.row_group.tolist(), found.row_piece.tolist(), strict=True):
        members[group].append(names[piece])
    freed: dict[str, int] = defaultdict(int)
    sets: dict[int, set[str]] = defaultdict(set)
    contents, free = found.contents.tolist(), found.free.tolist()
    pairs = zip(found.pattern.tolist(), found.frames.tolist(), strict=True)
    for group, (pattern, frames) in enumerate(pairs):
        key = json.dumps(sorted(members[group]))
        freed[key] += contents[pattern] * frames * page_bytes
        sets[pattern].add(key)
    kept: dict[str, int] = defaultdict(int)
    for pattern, keys in sets.items():
        if not free[pattern]:
            kept[_family(keys)] += contents[pattern] * page_bytes
    rows = [(False, _family([key]), size) for key, size in freed.items() if size]
    rows += [(True, key, size) for key, size in kept.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"kept": np.bool_, "bytes": np.int64, "family": object})


def _family(keys: Iterable[str]) -> str:
    return f"[{', '.join(sorted(keys))}]"


def fleet_frontier(rows: pd.DataFrame, scanned_pages: pd.Series[int]) -> pd.DataFrame:
    """The order in which to opt services in, best first, over all hosts.

    ``rows``: of ``families``, added up. ``scanned_pages``: by service. Columns: service,
    scanned_pages and saved_bytes of it and all before it, gain_bytes. With all in, saved_bytes is
    what the hosts free.
    """
    names = scanned_pages.index.tolist()
    number = {name: place for place, name in enumerate(names)}
    freed: dict[str, int] = defaultdict(int)
    kept: list[tuple[list[str], int]] = []
    for is_kept, family, size in rows[COLUMNS].itertuples(index=False):
        keys = [json.dumps(members) for members in json.loads(family)]
        if is_kept:
            kept.append((keys, int(size)))
        else:
            freed[keys[0]] += int(size)
    pattern: list[int] = []
    frames: list[int] = []
    row_group: list[int] = []
    row_piece: list[int] = []

    def add_group(of_pattern: int, key: str, size: int) -> None:
        members = [number[name] for name in json.loads(key)]
        row_group.extend([len(pattern)] * len(members))
        row_piece.extend(members)
        pattern.append(of_pattern)
        frames.append(size)

    for place, (keys, size) in enumerate(kept):
        for key in keys:
            add_group(place, key, 1)
            freed[key] -= size
    for key, size in freed.items():  # the rest of them is freed whoever else takes part
        add_group(len(kept), key, size)
    found = Patterns(
        pattern=np.array(pattern, np.int64),
        frames=np.array(frames, np.int64),
        row_group=np.array(row_group, np.int64),
        row_piece=np.array(row_piece, np.int64),
        contents=np.array([size for _, size in kept] + [1], np.int64),
        free=np.array([False] * len(kept) + [True]),
    )
    steps = frontier(found, np.array(scanned_pages, np.int64))
    steps.insert(0, "service", [names[piece] for piece in steps["piece"]])
    return steps.drop(columns="piece").rename(
        columns={"saved_pages": "saved_bytes", "gain_pages": "gain_bytes"}
    )
