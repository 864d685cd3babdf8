"""What fails while a kernel is read, each by its cause: the target, the kernel, this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from drgn import ObjectNotFoundError, Program

from estimator.collect.limits import is_own_limit, own_limits
from estimator.errors import CannotAnswerError, TargetError
from estimator.kernel.memory import READ_ERRORS
from estimator.kernel.vmcoreinfo import kernel_release


class skip_unreadable:
    """Go on behind a body that can't read the target, or that raises one of ``others``.

    Not where this machine lacks memory or files: that is raised, as it says nothing of the target.
    """

    def __init__(self, *others: type[Exception]) -> None:
        self._passing = (*READ_ERRORS, *others)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return isinstance(error, self._passing) and not is_own_limit(error)


@contextmanager
def reading(prog: Program, why: str) -> Iterator[None]:
    """Tell failures of the body, which reads the kernel of ``prog``, in the user's words.

    Raises TargetError with ``why`` where memory can't be read, CannotAnswerError where this kernel
    lacks a type, a member or a symbol, ResourceError where this machine lacks something. All else
    is our own bug and goes through.
    """
    try:
        with own_limits():
            yield
    except READ_ERRORS as error:
        raise TargetError(f"{why} (the kernel's own data can't be read: {error})") from error
    except LookupError as error:
        if type(error) not in (LookupError, ObjectNotFoundError):  # KeyError, IndexError: ours
            raise
        raise CannotAnswerError(
            f"kernel {kernel_release(prog)} is not supported yet: {error}",
            hint="collect --procfs on that machine needs neither types nor symbols",
        ) from error
