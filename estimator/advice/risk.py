"""What KSM risks: who would share pages with whom, who is a poor candidate, and side effects.

Whoever shares a page can time a write to it and so learn that somebody else has the same content.
The kernel merges across users, containers and virtual machines alike.
"""

from __future__ import annotations

import re
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

_MTE_BIT, _MTE_BIT_BEFORE_6_12 = 36, 32  # VM_MTE, include/linux/mm.h of arm64
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


def assess(
    snapshot: Snapshot,
    prediction: Prediction,
    pairs: int = 10,
    labels: pd.Series[str] | None = None,
) -> Risk:
    """The risk of ``prediction``, with the ``pairs`` closest pairs of domains per border.

    ``labels``: domains of the user's own, a name per row of ``snapshot.processes``.
    """
    rows = []
    closest = []
    domains_of = _domain_names(snapshot)
    if labels is not None:
        domains_of["label"] = labels.where(labels != "", "(no label)")
    for border, names in domains_of.items():
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
    """Processes that can't afford the fault that a write to a merged page costs.

    And those with memory tagging, whose tagged pages never merge (memcmp_pages() in
    arch/arm64/kernel/mte.c).
    """
    locked = _pages_in(prediction, snapshot.vmas["locked"].to_numpy())
    tagged = _pages_in(prediction, _mte(snapshot))
    table = prediction.processes[["mm_id", "pid", "comm", "cgroup", "ksm_merging_pages"]].copy()
    owners = snapshot.processes.set_index("mm_id").reindex(table["mm_id"])
    real_time = owners["sched_policy"].map(_REAL_TIME).to_numpy()
    columns = (
        real_time,
        owners["nice"],
        *(pages.loc[table["mm_id"]] for pages in (locked, tagged)),
    )
    table["reason"] = [
        ", ".join(
            reason
            for reason in (
                f"real-time ({name})" if isinstance(name, str) else "",
                f"latency-critical (nice {nice})" if nice < 0 else "",
                f"{pages:,} pages of locked memory" if pages else "",
                f"memory tagging (MTE) for {mte:,} pages: those with tags never merge"
                if mte
                else "",
            )
            if reason
        )
        for name, nice, pages, mte in zip(*columns, strict=True)
    ]
    poor = table[table["reason"] != ""].drop(columns="mm_id")
    return poor.sort_values("ksm_merging_pages", ascending=False, ignore_index=True)


def _pages_in(prediction: Prediction, chosen: npt.NDArray[np.bool_]) -> pd.Series[int]:
    """By mm_id, how many rmap_items lie in the VMAs where ``chosen`` (per row of vmas) is true."""
    vmas = prediction.vmas
    items = vmas["ksm_rmap_items"].where(chosen[vmas["vma_id"].to_numpy()], 0)
    return items.groupby(vmas["mm_id"]).sum().reindex(prediction.processes["mm_id"], fill_value=0)


def _mte(snapshot: Snapshot) -> npt.NDArray[np.bool_]:
    """Which VMAs have VM_MTE, by the bit that upstream has in this release."""
    kernel = snapshot.info["kernel"]
    numbers = re.match(r"(\d+)\.(\d+)", str(kernel["release"]))
    if kernel["machine"] != "aarch64" or not numbers:
        return np.zeros(len(snapshot.vmas), np.bool_)
    old = (int(numbers[1]), int(numbers[2])) < (6, 12)
    bit = np.uint64(1 << (_MTE_BIT_BEFORE_6_12 if old else _MTE_BIT))
    tagged: npt.NDArray[np.bool_] = (snapshot.vmas["vm_flags"].to_numpy() & bit) != 0
    return tagged
