"""What would KSM save here, where, and at what cost? Answered without turning KSM on."""

from estimator.advice.borders import borders
from estimator.advice.compare import compare
from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.settings import PageCost, schedule
from estimator.advice.sharing import contributions, contributions_by
from estimator.errors import EstimatorError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot import Snapshot, open_snapshot

__all__ = [
    "EstimatorError",
    "PageCost",
    "Policy",
    "Prediction",
    "Snapshot",
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
