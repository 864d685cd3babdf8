"""What this machine lacks for the work, told as that: not as a damaged target, not as a bug."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from estimator.errors import ResourceError

_MEMORY = (
    "not enough memory for this work on this machine",
    "try --workers 1, or a larger machine",
)
_FILES = ("too many files are open", "try: ulimit -n 4096")
_LACKS = {
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: ("no more processes can be started", "see ulimit -u"),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}


def is_own_limit(error: BaseException) -> bool:
    """Whether ``error`` says that we ran out of memory, processes or files."""
    if isinstance(error, OSError):
        return error.errno in _LACKS
    return isinstance(error, MemoryError)


@contextmanager
def own_limits() -> Iterator[None]:
    """Raise ResourceError where the body ran out of memory, processes or files."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if not is_own_limit(error):
            raise
        code = error.errno if isinstance(error, OSError) else None
        message, hint = _LACKS[code or errno.ENOMEM]
        detail = " ".join(str(error).split())
        raise ResourceError(f"{message} ({detail})" if detail else message, hint=hint) from error
