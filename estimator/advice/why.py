"""Why so much and no more: the prediction, and what becomes of every anonymous frame."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.arrays import Mask
from estimator.errors import UsageError
from estimator.ksm.candidates import select_mms
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.losses import Losses, losses
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot


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
    room: Workroom | None = None,
) -> Why:
    """Predict under ``policy`` and follow the frames from all of them to those that become free.

    ``whom``: only frames that the processes map which its selectors choose. ``vma``: an address
    (bytes); only frames mapped in the VMAs of these that it lies in. ``room``: see ``predict``.
    Raises UsageError where there is no such process or VMA, else as ``predict``.
    """
    question = ask(snapshot, policy, room=room)
    fate = question.at_rest()
    prediction = question.answer(fate)
    vmas = None if whom is None else _vmas(snapshot, whom, vma)
    return Why(prediction, losses(question.case, fate, prediction, vmas), whom, vma)


def _vmas(snapshot: Snapshot, whom: Policy, address: int | None) -> Mask:
    """The VMAs (bool per VMA) of ``whom``."""
    mms, table = select_mms(snapshot.processes, whom), snapshot.vmas
    there: Mask = mms[table["mm_id"].to_numpy()]
    if address is None:
        return there
    there &= (table["start"].to_numpy() <= address) & (address < table["end"].to_numpy())
    if not there.any():
        raise UsageError(f"no VMA of these processes has the address {address:#x}")
    return there
