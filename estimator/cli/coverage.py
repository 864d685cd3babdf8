"""The exit code where too little could be read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from estimator import units
from estimator.cli.streams import say
from estimator.errors import EXIT_LOW_COVERAGE

if TYPE_CHECKING:
    from estimator.ksm.coverage import Coverage


def require_coverage(coverage: Coverage, percent: float) -> None:
    """Exit with 6 unless ``percent`` of what ksmd would visit was read; nothing to read is fine."""
    require_share(coverage.hashed_share, percent)


def require_share(share: float | None, percent: float, of: str = "") -> None:
    """``share``: of what was to be read, from 0 to 1; ``of``: of which side."""
    if share is not None and 100 * share < percent:
        message = f"only {units.percent(share, 1)} of the candidate pages{of} could be read"
        say(f"ksm-estimator: {message}; accept it with --min-coverage")
        sys.exit(EXIT_LOW_COVERAGE)


def require_contents(coverage: Coverage, percent: float) -> None:
    """Exit with 6 where contents were left out on demand and ``percent`` of them is wanted."""
    if coverage.pages and percent > 0:
        message = "an upper bound, for contents were left out; --min-coverage 0 accepts it"
        say(f"ksm-estimator: {message}")
        sys.exit(EXIT_LOW_COVERAGE)
