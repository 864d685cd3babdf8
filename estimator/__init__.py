"""What would KSM save here, where, and at what cost? Answered without turning KSM on.

The names below are imported when they are first used: ``--help`` and a start of drgn need no
pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimator._version import __version__
from estimator.errors import EstimatorError
from estimator.ksm.policy import Policy

if TYPE_CHECKING:
    from estimator.advice.attribution import contributions, contributions_by
    from estimator.advice.borders import borders
    from estimator.advice.compare import compare
    from estimator.advice.plan import make_plan
    from estimator.advice.risk import assess
    from estimator.advice.schedule import PageCost, schedule
    from estimator.ksm.predict import predict
    from estimator.ksm.prediction import Prediction
    from estimator.snapshot.snapshot import Snapshot
    from estimator.snapshot.store import open_snapshot

__all__ = [
    "EstimatorError",
    "PageCost",
    "Policy",
    "Prediction",
    "Snapshot",
    "__version__",
    "assess",
    "borders",
    "compare",
    "contributions",
    "contributions_by",
    "make_plan",
    "open_snapshot",
    "predict",
    "schedule",
]

_HOME = {
    "PageCost": "advice.schedule",
    "Prediction": "ksm.prediction",
    "Snapshot": "snapshot.snapshot",
    "assess": "advice.risk",
    "borders": "advice.borders",
    "compare": "advice.compare",
    "contributions": "advice.attribution",
    "contributions_by": "advice.attribution",
    "make_plan": "advice.plan",
    "open_snapshot": "snapshot.store",
    "predict": "ksm.predict",
    "schedule": "advice.schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
