"""The failures a user can meet, each with its exit code, its cause and the next step."""

from __future__ import annotations

EXIT_OK = 0
EXIT_LOW_COVERAGE = 6
EXIT_DIFFERS = 7
EXIT_INTERRUPTED = 130

AS_ROOT = 'try: sudo "$(command -v ksm-estimator)" ...'
"""A hint: sudo does not look into a virtual environment."""


class EstimatorError(Exception):
    """What failed, why (found by looking), and the command to try next.

    ``exit_code`` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ResourceError(EstimatorError):
    """This machine lacks what the work needs: memory, processes, open files."""


class UsageError(EstimatorError):
    """The request makes no sense for this input (unknown pid, max_page_sharing < 2 ...)."""

    exit_code = 2


class TargetError(EstimatorError):
    """The target can't be opened: missing, no permission, not a kernel dump."""

    exit_code = 3


class NoDebugInfoError(EstimatorError):
    """There is no debug information for the target's kernel, or it is another build's."""

    exit_code = 4


class CannotAnswerError(EstimatorError):
    """The input can't answer: user pages filtered out, no KSM in this kernel, old snapshot."""

    exit_code = 5
