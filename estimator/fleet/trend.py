"""One host over time: what it saves, how fast what merges goes away, and whose saving changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Words
from estimator.errors import CannotAnswerError, UsageError
from estimator.fleet.one_host import WRITTEN_PERCENT, Question, about, study
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, read_info

_MINUTE = 60.0


@dataclass(frozen=True)
class Trend:
    """One host, or one service of it.

    ``host``: its name; None: it has none. ``service``: which one; None: the whole host.
    ``looks``: one row per snapshot, oldest first: place, collected_at, collected_seconds,
    anonymous_bytes (of the host), saved_bytes, net_bytes, read_share (of the host; NaN: nothing to
    read), and since the one before: merged_contents (how many merged there), gone_share (of them,
    that no candidate has now), gone_per_minute; NaN for the first, and where the seeds differ.
    ``changes``: service, first_bytes, last_bytes (net; NaN: it was not there), change_bytes,
    biggest change first. ``overcommit``: percent, needed_bytes: of the newest, as in ``Summary``.
    """

    host: str | None
    service: str | None
    policy: Policy
    looks: pd.DataFrame
    changes: pd.DataFrame
    overcommit: pd.DataFrame

    @property
    def volatility(self) -> float | None:
        """The standard deviation of the net saving, of its mean; None: there is no saving."""
        net = self.looks["net_bytes"].to_numpy(np.float64)
        return float(net.std() / abs(net.mean())) if net.mean() else None

    @property
    def gone_per_minute(self) -> float | None:
        """The largest share of merged contents seen to go in a minute; None: not known."""
        known = self.looks["gone_per_minute"].dropna()
        return float(known.max()) if len(known) else None


def trend(paths: Iterable[Path], question: Question, service: str | None = None) -> Trend:
    """The snapshots at ``paths``, which are of one host, in the order in which they were taken.

    One of them at a time is in memory. Raises UsageError for snapshots of several hosts, one that
    is named twice, and a service that none of them has; CannotAnswerError where one does not say
    when it was taken; else as ``open_snapshot`` and ``predict``.
    """
    order = _in_order(list(paths))
    rows, per_service = [], {}
    before: tuple[str | None, Words, float] | None = None
    needed: list[int] = []
    for place, told in order:
        snapshot = open_snapshot(place)
        found = study(snapshot, question)
        host = found.host
        services = found.services.set_index("service")
        per_service[str(place)] = services["net_bytes"]
        seed, contents, merging = _contents(snapshot, question.policy)
        seconds = told["collected_seconds"]
        mine: Any = services.reindex([service]).fillna(0).iloc[0] if service else host
        pages = host["candidate_pages"]
        rows.append(
            {
                "place": str(place),
                "collected_at": told["collected_at"],
                "collected_seconds": seconds,
                "anonymous_bytes": host["anonymous_bytes"],
                "saved_bytes": float(mine["saved_bytes"]),
                "net_bytes": float(mine["net_bytes"]),
                "read_share": host["read_pages"] / pages if pages else np.nan,
                **_gone(before, seed, contents, seconds),
            }
        )
        before = (seed, merging, seconds)
        needed = host["needed_bytes"]
    table = pd.DataFrame(per_service)
    if service is not None and service not in table.index:
        known = ", ".join(map(str, table.index[:5]))
        raise UsageError(f"no snapshot has a service {service}", hint=f"there are {known}")
    return Trend(
        host=order[0][1]["host"],
        service=service,
        policy=question.policy,
        looks=pd.DataFrame(rows),
        changes=_changes(table),
        overcommit=pd.DataFrame({"percent": WRITTEN_PERCENT, "needed_bytes": needed}),
    )


def _in_order(paths: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    if len(paths) < 2:
        raise UsageError("a trend is of at least two snapshots")
    found = [(path, about(read_info(path))) for path in paths]
    for path, told in found:
        if told["collected_seconds"] is None:
            raise CannotAnswerError(f"{path} does not say when it was taken")
    first_path, first = found[0]
    for path, told in found[1:]:
        for name in ("machine_id", "host"):
            if first[name] and told[name] and first[name] != told[name]:
                raise UsageError(
                    f"{first_path} and {path} are of two hosts: {first['host']} and "
                    f"{told['host']} ({name})",
                    hint="for many hosts: ksm-estimator fleet report",
                )
    found.sort(key=lambda one: one[1]["collected_seconds"])
    for (path, told), (other, next_told) in pairwise(found):
        if told["collected_seconds"] == next_told["collected_seconds"]:
            raise UsageError(f"{path} and {other} were taken at the same moment")
    return found


def _contents(snapshot: Snapshot, policy: Policy) -> tuple[str | None, Words, Words]:
    """The seed's name, and the hashes of all candidates and of what merges, each once."""
    prediction = predict(snapshot, policy)
    hashes = snapshot.frames["hash"].to_numpy(np.uint64, na_value=0)
    known = (snapshot.frames["unknown"] == 0).to_numpy()
    frame = snapshot.mappings["frame_id"].to_numpy()

    def of(rows: np.ndarray[Any, np.dtype[np.bool_]]) -> Words:
        frames = np.unique(frame[rows])
        return np.unique(hashes[frames[known[frames]]])

    seed = snapshot.info.get("hash", {}).get("seed_id")
    return seed, of(prediction.scanned), of(prediction.converted)


def _gone(
    before: tuple[str | None, Words, float] | None, seed: str | None, contents: Words, now: float
) -> dict[str, float]:
    """What of the contents that merged ``before`` is in no candidate any more."""
    unknown = dict.fromkeys(("merged_contents", "gone_share", "gone_per_minute"), np.nan)
    if before is None:
        return unknown
    seed_before, merging, then = before
    if seed is None or seed != seed_before or not len(merging):
        return unknown | {"merged_contents": float(len(merging))}
    share = 1 - len(np.intersect1d(merging, contents, assume_unique=True)) / len(merging)
    minutes = (now - then) / _MINUTE
    # what is left after some minutes, if every minute takes the same part of it
    per_minute = 1 - (1 - share) ** (1 / minutes) if share < 1 else min(1.0, 1 / minutes)
    return {
        "merged_contents": float(len(merging)),
        "gone_share": share,
        "gone_per_minute": per_minute,
    }


def _changes(table: pd.DataFrame) -> pd.DataFrame:
    first, last = table.iloc[:, 0], table.iloc[:, -1]
    changes = pd.DataFrame(
        {
            "first_bytes": first,
            "last_bytes": last,
            "change_bytes": last.fillna(0) - first.fillna(0),
        }
    )
    order = changes["change_bytes"].abs().sort_values(ascending=False, kind="stable").index
    return changes.loc[order].rename_axis("service").reset_index()
