"""What would KSM save here, where, and at what cost? Answered without turning KSM on.

The names below are imported when they are first used: ``--help`` and a start of drgn need no
pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimator._version import __version__ as __version__

if TYPE_CHECKING:  # the same names for a type checker
    from estimator.advice.attribution import contributions as contributions
    from estimator.advice.attribution import contributions_by as contributions_by
    from estimator.advice.borders import borders as borders
    from estimator.advice.compare import compare as compare
    from estimator.advice.page_cost import PageCost as PageCost
    from estimator.advice.plan import make_plan as make_plan
    from estimator.advice.risk import assess as assess
    from estimator.advice.schedule import schedule as schedule
    from estimator.advice.verify import verify as verify
    from estimator.advice.whatif import what_if as what_if
    from estimator.advice.why import why as why
    from estimator.errors import EstimatorError as EstimatorError
    from estimator.kernel.collect import collect_core as collect_core
    from estimator.kernel.collect import collect_program as collect_program
    from estimator.ksm.as_if import as_if as as_if
    from estimator.ksm.forecast import Forecast as Forecast
    from estimator.ksm.forecast import forecast as forecast
    from estimator.ksm.policy import Policy as Policy
    from estimator.ksm.predict import predict as predict
    from estimator.ksm.prediction import Outcome as Outcome
    from estimator.ksm.prediction import Prediction as Prediction
    from estimator.ksm.upper_bound import UpperBound as UpperBound
    from estimator.ksm.upper_bound import upper_bound as upper_bound
    from estimator.procfs.collect import collect_procfs as collect_procfs
    from estimator.procfs.ksm_counters import read_reality as read_reality
    from estimator.report.as_json import prediction_json as prediction_json
    from estimator.report.notebook import show_comparison as show_comparison
    from estimator.report.notebook import show_plan as show_plan
    from estimator.report.notebook import show_prediction as show_prediction
    from estimator.report.notebook import show_upper_bound as show_upper_bound
    from estimator.snapshot.flags import FrameFlag as FrameFlag
    from estimator.snapshot.flags import MappingFlag as MappingFlag
    from estimator.snapshot.flags import Unknown as Unknown
    from estimator.snapshot.snapshot import Snapshot as Snapshot
    from estimator.snapshot.store import open_snapshot as open_snapshot
    from estimator.snapshot.store import write_snapshot as write_snapshot

_MODULE_OF = {
    "EstimatorError": "errors",
    "Forecast": "ksm.forecast",
    "FrameFlag": "snapshot.flags",
    "MappingFlag": "snapshot.flags",
    "Outcome": "ksm.prediction",
    "PageCost": "advice.page_cost",
    "Policy": "ksm.policy",
    "Prediction": "ksm.prediction",
    "Snapshot": "snapshot.snapshot",
    "UpperBound": "ksm.upper_bound",
    "Unknown": "snapshot.flags",
    "as_if": "ksm.as_if",
    "assess": "advice.risk",
    "borders": "advice.borders",
    "collect_core": "kernel.collect",
    "collect_procfs": "procfs.collect",
    "collect_program": "kernel.collect",
    "compare": "advice.compare",
    "contributions": "advice.attribution",
    "contributions_by": "advice.attribution",
    "forecast": "ksm.forecast",
    "make_plan": "advice.plan",
    "open_snapshot": "snapshot.store",
    "predict": "ksm.predict",
    "prediction_json": "report.as_json",
    "read_reality": "procfs.ksm_counters",
    "schedule": "advice.schedule",
    "show_comparison": "report.notebook",
    "show_plan": "report.notebook",
    "show_prediction": "report.notebook",
    "show_upper_bound": "report.notebook",
    "upper_bound": "ksm.upper_bound",
    "verify": "advice.verify",
    "what_if": "advice.whatif",
    "why": "advice.why",
    "write_snapshot": "snapshot.store",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
