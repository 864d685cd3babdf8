"""What would KSM save here, where, and at what cost? Answered without turning KSM on."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimator.errors import EstimatorError
from estimator.ksm.policy import Policy

if TYPE_CHECKING:
    from estimator.ksm.predict import predict
    from estimator.ksm.prediction import Prediction
    from estimator.snapshot import Snapshot, open_snapshot

__all__ = ["EstimatorError", "Policy", "Prediction", "Snapshot", "open_snapshot", "predict"]

_HOME = {
    "Prediction": "estimator.ksm.prediction",
    "Snapshot": "estimator.snapshot",
    "open_snapshot": "estimator.snapshot",
    "predict": "estimator.ksm.predict",
}


def __getattr__(name: str) -> Any:
    """Import what needs pandas only when it is asked for: ``--help`` and drgn start without it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
