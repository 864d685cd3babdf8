"""What is opted in outside of the processes that were selected: ksmd scans it all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.advice.attribution import contributions
from estimator.ksm.candidates import on_ksmds_list, select_mms
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import SELECTORS
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot

COLUMNS = ["cgroup", "comm", "pids", "vmas", "scanned_pages", "saved_pages", "net_bytes"]


def on_elsewhere(
    snapshot: Snapshot, everything: Prediction, room: Workroom | None = None
) -> pd.DataFrame:
    """One row per cgroup and program that is opted in and not selected by ``everything.policy``.

    cgroup, comm, pids (list), vmas (that are open to merging), and as KSM would do with all that is
    opted in now and nothing else: scanned_pages, saved_pages (f64) and net_bytes (f64), see
    ``contributions``. Most scanned first; empty where nobody was left out. ``room``: as for
    ``predict``.
    """
    policy = everything.policy
    left_out = ~select_mms(snapshot.processes, policy) & on_ksmds_list(snapshot)
    mergeable = snapshot.vmas["mergeable"].to_numpy()
    if not left_out[snapshot.vmas["mm_id"].to_numpy()[mergeable]].any():
        return pd.DataFrame(columns=COLUMNS)
    nobody: dict[str, Any] = dict.fromkeys(SELECTORS, ())
    today = replace(policy, scope="enabled", **nobody)
    table = contributions(snapshot, predict(snapshot, today, room=room))
    grouped = table[left_out[table["mm_id"].to_numpy()]].groupby(["cgroup", "comm"], sort=False)
    sums = grouped[["scanned_pages", "saved_pages", "net_bytes"]].sum()
    pids = [sorted({*rows["pid"].tolist()}) for _, rows in grouped]
    rows = sums.assign(pids=pd.Series(pids, sums.index, dtype=object), vmas=grouped.size())
    order = np.argsort(-rows["scanned_pages"].to_numpy(), kind="stable")
    return rows.iloc[order].reset_index()[COLUMNS]
