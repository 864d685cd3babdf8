"""Whether an overcommit is safe: what a host has left at rest, and what a minute of writes takes.

With an overcommit of 1.3, what is 1.3 GiB of anonymous memory without KSM gets 1 GiB. At rest KSM
has freed some of it; what is left over has to hold the copies that writes to merged pages take
until ksmd merges them again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.fleet.one_host import WRITTEN_PERCENT

SAFE, UNSAFE, UNKNOWN = "safe", "not safe", "unknown"


@dataclass(frozen=True)
class Overcommit:
    """The answer for a ``ratio`` (more than 1).

    ``written_share``: of the merged pages, written within a minute, as asked; None: as measured on
    each host. ``hosts``: host, place, verdict, written_share (NaN: not known), left_bytes (free at
    rest, negative: it does not even fit then), needed_bytes (of the writes; NaN: not known), and
    safe_ratio, the largest that is (NaN: not known). Those with least left over first, unknown ones
    last. ``not_counted``: hosts whose snapshots say nothing.
    """

    ratio: float
    written_share: float | None
    hosts: pd.DataFrame
    not_counted: int

    def count(self, verdict: str) -> int:
        """Hosts of that ``verdict``; what is not counted is unknown."""
        found = int((self.hosts["verdict"] == verdict).sum())
        return found + (self.not_counted if verdict == UNKNOWN else 0)

    @property
    def verdict(self) -> str:
        """Of all: safe only where every host is known to be."""
        if self.count(UNSAFE):
            return UNSAFE
        return UNKNOWN if self.count(UNKNOWN) else SAFE

    @property
    def safe_ratio(self) -> float | None:
        """The largest that is safe on every host; None where any is not known."""
        known = self.hosts["safe_ratio"]
        return None if self.count(UNKNOWN) or known.isna().any() else float(known.min())


def overcommit(
    hosts: pd.DataFrame, not_counted: int, ratio: float, written_share: float | None
) -> Overcommit:
    """``hosts``: rows of ``results.HOSTS`` that count. ``ratio``, ``written_share``: as above."""
    anonymous = hosts["anonymous_bytes"].to_numpy(np.float64)
    at_rest = anonymous - hosts["net_bytes"].to_numpy(np.float64)
    left = anonymous / ratio - at_rest
    measured = hosts["written_share"].to_numpy(np.float64)
    written = measured if written_share is None else np.full(len(hosts), written_share)
    needed = needed_bytes(np.stack(hosts["needed_bytes"].to_list()), written)
    there = anonymous > 0
    in_use = np.where(there, at_rest + needed, np.nan)
    most = anonymous / np.where(in_use > 0, in_use, np.nan)
    verdict = np.select(
        [there & (left < 0), ~there | np.isnan(needed), needed > left],
        [UNSAFE, UNKNOWN, UNSAFE],
        SAFE,
    )
    found = hosts[["host", "place"]].assign(
        verdict=verdict,
        written_share=written,
        left_bytes=left,
        needed_bytes=needed,
        safe_ratio=most,
        over=left - np.nan_to_num(needed),
        unknown=verdict == UNKNOWN,
    )
    found = found.sort_values(["unknown", "over"], kind="stable", ignore_index=True)
    return Overcommit(ratio, written_share, found.drop(columns=["over", "unknown"]), not_counted)


def needed_bytes(
    curves: npt.NDArray[np.int64], share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """At most so many bytes are needed if ``share`` (per host, NaN: unknown) is written.

    ``curves``: i64 (hosts, points), at ``WRITTEN_PERCENT``. A curve bends down, so that beyond a
    point it stays below the line from 0 through that point, and below the next one.
    """
    points = np.array(WRITTEN_PERCENT) / 100
    known = np.nan_to_num(share)
    after = np.minimum(np.searchsorted(points, known), len(points) - 1)
    rows = np.arange(len(curves))
    upper = curves[rows, after].astype(np.float64)
    before = np.maximum(after - 1, 0)
    line = curves[rows, before] * known / points[before]
    found = np.where(after > 0, np.minimum(upper, line), upper)
    return np.where(np.isnan(share), np.nan, np.where(known == 0, 0.0, found))
