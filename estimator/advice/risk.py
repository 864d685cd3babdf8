"""What KSM risks: who would share pages with whom, who is a poor candidate, and side effects.

Whoever shares a page can time a write to it and so learn that somebody else has the same content.
The kernel merges across users, containers and virtual machines alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.borders import Borders, borders, sharing_matrix
from estimator.advice.host import machine_names
from estimator.advice.side_effects import SideEffects, side_effects
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot

_REAL_TIME = {1: "SCHED_FIFO", 2: "SCHED_RR", 6: "SCHED_DEADLINE"}


@dataclass(frozen=True)
class Risk:
    """How much of the saving crosses a border, and who should stay out.

    ``borders``: one row per kind of border: border, domains (how many take part), within_bytes,
    across_bytes. ``pairs``: the domains with most merged pages in common: border, one, other,
    shared_pages (stable nodes). ``poor_candidates``: pid, comm, cgroup, reason, ksm_merging_pages.
    ``effects``: what it does to the machine besides.
    """

    borders: pd.DataFrame
    pairs: pd.DataFrame
    poor_candidates: pd.DataFrame
    effects: SideEffects


def assess(snapshot: Snapshot, prediction: Prediction, pairs: int = 10) -> Risk:
    """The risk of ``prediction``, with the ``pairs`` closest pairs of domains per border."""
    rows = []
    closest = []
    for border, names in _domain_names(snapshot).items():
        domain, domains = pd.factorize(names)
        split: Borders = borders(snapshot, prediction, domain)
        taking_part = snapshot.processes["mm_id"].isin(prediction.processes["mm_id"]).to_numpy()
        size = page_bytes(snapshot)
        rows.append(
            (
                border,
                len(np.unique(domain[taking_part])),
                round(split.within * size),
                round(split.across * size),
            )
        )
        if split.across:
            closest.append(_closest(snapshot, prediction, domain, domains, border, pairs))
    columns = ["border", "one", "other", "shared_pages"]
    return Risk(
        borders=pd.DataFrame(rows, columns=["border", "domains", "within_bytes", "across_bytes"]),
        pairs=pd.concat(closest, ignore_index=True) if closest else pd.DataFrame(columns=columns),
        poor_candidates=_poor_candidates(snapshot, prediction),
        effects=side_effects(snapshot, prediction),
    )


def _domain_names(snapshot: Snapshot) -> dict[str, pd.Series[str]]:
    """The name of every mm's domain, per kind of border."""
    processes = snapshot.processes
    domains = {"uid": "uid " + processes["uid"].astype(str), "cgroup": processes["cgroup"]}
    machines = machine_names(processes)
    if (machines != "").any():
        domains["virtual machine"] = pd.Series(np.where(machines != "", machines, "host"))
    return domains


def _closest(
    snapshot: Snapshot,
    prediction: Prediction,
    domain: npt.NDArray[np.int64],
    domains: pd.Index[str],
    border: str,
    limit: int,
) -> pd.DataFrame:
    merging = prediction.processes.groupby(domain[prediction.processes["mm_id"].to_numpy()])[
        "ksm_merging_pages"
    ].sum()
    biggest = merging.nlargest(32).index.to_numpy()
    rank = np.full(len(domains), -1, np.int64)
    rank[biggest] = np.arange(len(biggest))
    matrix = sharing_matrix(snapshot, prediction, rank[domain], len(biggest))
    one, other = np.triu_indices(len(biggest), 1)
    table = pd.DataFrame(
        {
            "border": border,
            "one": domains[biggest[one]],
            "other": domains[biggest[other]],
            "shared_pages": matrix[one, other],
        }
    )
    return table[table["shared_pages"] > 0].nlargest(limit, "shared_pages")


def _poor_candidates(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """Processes that can't afford the fault that a write to a merged page costs."""
    locked_vmas = snapshot.vmas["vma_id"].to_numpy()[snapshot.vmas["locked"].to_numpy()]
    scanned = prediction.vmas[prediction.vmas["ksm_rmap_items"] > 0]
    locked = scanned[scanned["vma_id"].isin(locked_vmas)].groupby("mm_id")["ksm_rmap_items"].sum()
    table = prediction.processes[["mm_id", "pid", "comm", "cgroup", "ksm_merging_pages"]].copy()
    policy = snapshot.processes.set_index("mm_id")["sched_policy"].reindex(table["mm_id"])
    real_time = policy.map(_REAL_TIME).to_numpy()
    locked_pages = locked.reindex(table["mm_id"], fill_value=0).to_numpy()
    table["reason"] = [
        ", ".join(
            reason
            for reason in (
                f"real-time ({name})" if isinstance(name, str) else "",
                f"{pages:,} pages of locked memory" if pages else "",
            )
            if reason
        )
        for name, pages in zip(real_time, locked_pages, strict=True)
    ]
    poor = table[table["reason"] != ""].drop(columns="mm_id")
    return poor.sort_values("ksm_merging_pages", ascending=False, ignore_index=True)
