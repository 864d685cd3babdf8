"""``python -m estimator``."""

from estimator.cli import entry

entry()
