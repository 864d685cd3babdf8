"""One snapshot of a fleet, on whichever machine a worker runs: whatever happens becomes a row."""

from __future__ import annotations

import json
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimator._version import __version__
from estimator.errors import EstimatorError, UsageError
from estimator.fleet.one_host import HostRows, Question, about, picture_id, study
from estimator.fleet.storage import fingerprint, local_copy
from estimator.snapshot.store import open_snapshot


@dataclass(frozen=True)
class Found:
    """A row of ``results.HOSTS`` as far as it is known, and the rest unless there is a problem."""

    row: dict[str, Any]
    rows: HostRows | None


def read_place(place: str, mark: str | None, question: Question, timeout_seconds: float) -> Found:
    """What the snapshot at ``place`` says; ``mark``: its fingerprint, None where it has none yet.

    Raises nothing that comes of the snapshot: an unreadable one is a row that says why.
    """
    row: dict[str, Any] = start_row(place, mark)
    try:
        with local_copy(place, timeout_seconds) as path:
            row["fingerprint"] = mark or fingerprint(path)
            return Found(row, _read(path, row, question))
    except UsageError as error:  # no process of this host is among those selected
        return Found(row | {"problem": f"not selected: {error.message}", "passing": False}, None)
    except EstimatorError as error:
        told = error.message.replace(f"{place}: ", "").replace(place, "it")
        return Found(row | {"problem": told, "passing": "did not answer" in told}, None)
    except OSError as error:
        told = f"can't be read: {error.strerror or error}"
        return Found(row | {"problem": told, "passing": True}, None)
    except MemoryError:
        return Found(row | {"problem": "too little memory for it", "passing": True}, None)
    except Exception as error:  # of damage that no check has foreseen
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Found(row | {"problem": f"damaged, or our mistake: {what}", "passing": True}, None)


def start_row(place: str, mark: str | None) -> dict[str, Any]:
    """The row of a snapshot of which nothing is known yet; its ``key`` is of this reading alone."""
    key = secrets.token_hex(12)
    row: dict[str, Any] = dict.fromkeys(("picture", "host", "problem"))
    return row | {"key": key, "place": place, "fingerprint": mark, "passing": False}


def _read(path: Path, row: dict[str, Any], question: Question) -> HostRows:
    snapshot = open_snapshot(path)
    row |= about(snapshot.info)
    row["picture"] = picture_id(json.dumps(snapshot.info, sort_keys=True).encode())
    return study(snapshot, question)


def ignore_interrupts() -> None:
    """Ctrl-C in a terminal reaches all processes; those that work are ended by ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_version() -> str:
    """Of this package, where a worker runs."""
    return __version__
