"""Where the snapshots of a fleet lie: paths, directories of them, and URLs that fsspec knows."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from estimator.errors import EstimatorError, TargetError, UsageError

_INFO = "snapshot.json"
_ARCHIVE = ".ksm.tar"
Answer = TypeVar("Answer")


def find_places(named: Iterable[str], timeout_seconds: float) -> list[str]:
    """The snapshots that ``named`` stand for, each once, in order: paths, or URLs.

    A directory stands for all snapshots below it: directories ``NAME.ksm`` (what a snapshot in one
    lacks is found when it is opened) and files ``NAME.ksm.tar``. Raises TargetError for what does
    not exist, holds none, or does not answer in time; UsageError for storage that is not installed.
    """
    found: dict[str, None] = {}
    for name in named:
        found.update(dict.fromkeys(_below(name, timeout_seconds)))
    return list(found)


def _below(name: str, timeout_seconds: float) -> list[str]:
    system, path = _open_storage(name)

    def look() -> list[str]:
        if _is_snapshot(path) or system.exists(f"{path}/{_INFO}"):
            return [path]
        if not system.isdir(path):
            return [] if not system.exists(path) else [path]
        return sorted(_walk(system, path))

    try:
        places = in_time(look, timeout_seconds, name)
        exists = bool(places) or in_time(lambda: system.exists(path), timeout_seconds, name)
    except EstimatorError:
        raise
    except Exception as error:  # each kind of storage raises its own
        raise TargetError(
            f"{name} can't be listed: {first_line(error)}", hint=_look_at(name)
        ) from error
    if not places:
        raise TargetError(
            f"{name} holds no snapshot" if exists else f"{name} does not exist",
            hint="snapshots are directories NAME.ksm or files NAME.ksm.tar",
        )
    return [system.unstrip_protocol(place) if "://" in name else place for place in places]


def _walk(system: Any, path: str) -> Iterator[str]:
    for directory, names, files in system.walk(path):
        yield from (f"{directory}/{file}" for file in files if file.endswith(_ARCHIVE))
        for name in list(names):
            if name.endswith(".ksm"):
                yield f"{directory}/{name}"
            if name.endswith((".ksm", ".fleet")) or name.startswith("."):  # no snapshots in these
                _leave_out(names, name)


def _leave_out(names: Any, name: str) -> None:
    """fsspec gives lists or dicts, which both say where it goes on."""
    if isinstance(names, dict):
        del names[name]
    else:
        names.remove(name)


def _is_snapshot(path: str) -> bool:
    return path.rstrip("/").endswith((".ksm", _ARCHIVE))


def _open_storage(name: str) -> tuple[Any, str]:
    import fsspec

    if name.startswith("-"):
        raise UsageError(f"{name}: a fleet is read from files, not from a pipe")
    try:
        system, path = fsspec.core.url_to_fs(name)
    except ImportError as error:
        raise UsageError(f"{name}: {error}") from error
    except ValueError as error:
        raise UsageError(f"{name} is no place for snapshots: {error}") from error
    return system, str(path)


@contextmanager
def local_copy(place: str, timeout_seconds: float) -> Iterator[Path]:
    """``place`` as a path here; a private copy of what lies elsewhere, which goes afterwards.

    Raises TargetError where the storage refuses, or does not answer in ``timeout_seconds``.
    """
    if "://" not in place:
        yield Path(place)
        return
    system, path = _open_storage(place)
    with TemporaryDirectory(prefix="ksm-fleet-") as directory:  # mode 0700
        local = Path(directory) / path.rstrip("/").rpartition("/")[2]

        def fetch() -> None:
            system.get(path, str(local), recursive=True)

        try:
            in_time(fetch, timeout_seconds, place)
        except EstimatorError:
            raise
        except Exception as error:
            raise TargetError(f"{place} can't be fetched: {first_line(error)}") from error
        yield local


def first_line(error: Exception) -> str:
    """Of what ``error`` says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _look_at(name: str) -> str | None:
    if not name.startswith(("s3://", "s3a://")):
        return None
    return "its address and keys are AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID ..."


def in_time(ask: Callable[[], Answer], timeout_seconds: float, what: str) -> Answer:
    """``ask()``, or TargetError where it takes too long: storage may never answer."""
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise TargetError(
            f"{what}: the storage did not answer in {timeout_seconds:g} s",
            hint="wait longer with --timeout SECONDS",
        )
    return answers[0]


def fingerprint(path: Path) -> str:
    """What tells whether a snapshot is still the one that was read: names, sizes, times, its info.

    Raises OSError where it can't be read.
    """
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def remote_fingerprint(place: str, timeout_seconds: float) -> str | None:
    """``fingerprint`` of ``place`` wherever it is, without fetching it; None: can't be told."""
    try:
        if "://" not in place:
            return fingerprint(Path(os.path.abspath(place)))
        system, path = _open_storage(place)
        found = in_time(lambda: system.find(path, detail=True), timeout_seconds, place)
    except Exception:  # a worker meets it again, and says why
        return None
    digest = hashlib.sha256()
    for name, about in sorted(found.items()):
        when = about.get("mtime") or about.get("LastModified") or about.get("created")
        digest.update(f"{name} {about.get('size')} {when}\n".encode())
    return digest.hexdigest()[:32]
