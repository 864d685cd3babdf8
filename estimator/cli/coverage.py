"""The exit code where too little could be read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from estimator.errors import EXIT_LOW_COVERAGE

if TYPE_CHECKING:
    from estimator.ksm.coverage import Coverage


def require_coverage(coverage: Coverage, percent: float) -> None:
    """Exit with 6 unless ``percent`` of what ksmd would visit was read; nothing to read is fine."""
    require_share(coverage.hashed_share, percent)


def require_share(share: float | None, percent: float, of: str = "") -> None:
    """``share``: of what was to be read, from 0 to 1; ``of``: of which side."""
    if share is not None and 100 * share < percent:
        message = f"only {100 * share:.1f} % of the candidate pages{of} could be read"
        click.echo(f"ksm-estimator: {message}; accept it with --min-coverage", err=True)
        sys.exit(EXIT_LOW_COVERAGE)
