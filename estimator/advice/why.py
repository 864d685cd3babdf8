"""Why so much and no more: the prediction, and what becomes of every anonymous frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints
from estimator.errors import UsageError
from estimator.ksm.candidates import select_mms
from estimator.ksm.fate import settle
from estimator.ksm.losses import Losses, losses
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot, mapping_mm


@dataclass(frozen=True)
class Why:
    """``losses``: of the frames that ``whom`` maps; None: of all anonymous frames."""

    prediction: Prediction
    losses: Losses
    whom: Policy | None = None
    vma: int | None = None


def why(
    snapshot: Snapshot,
    policy: Policy | None = None,
    *,
    whom: Policy | None = None,
    vma: int | None = None,
) -> Why:
    """Predict under ``policy`` and follow the frames from all of them to those that become free.

    ``whom``: only frames that the processes map which its selectors choose. ``vma``: an address
    (bytes); only frames mapped in the VMAs of these that it lies in. Raises UsageError where there
    is no such process or VMA, else as ``predict``.
    """
    question = ask(snapshot, policy)
    fate = settle(question.case)
    prediction = question.answer(fate)
    rows = None if whom is None else _rows(question.case.snapshot, whom, vma)
    return Why(prediction, losses(question.case, fate, prediction, rows), whom, vma)


def _rows(snapshot: Snapshot, whom: Policy, vma: int | None) -> Ints:
    """The mappings of ``whom``."""
    mms = select_mms(snapshot.processes, whom)
    if vma is None:
        return np.flatnonzero(mms[mapping_mm(snapshot)])
    table = snapshot.vmas
    there = (table["start"].to_numpy() <= vma) & (vma < table["end"].to_numpy())
    there &= mms[table["mm_id"].to_numpy()]
    if not there.any():
        raise UsageError(f"no VMA of these processes has the address {vma:#x}")
    return np.flatnonzero(there[snapshot.mappings["vma_id"].to_numpy()])
