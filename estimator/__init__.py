"""What would KSM save here, where, and at what cost? Answered without turning KSM on."""

from estimator.errors import EstimatorError
from estimator.ksm.policy import Policy
from estimator.snapshot import Snapshot, open_snapshot

__all__ = ["EstimatorError", "Policy", "Snapshot", "open_snapshot"]
