"""What a run over a fleet has found so far: a private directory of parts, each written whole.

``NAME.fleet/fleet.json`` says what was asked; ``part-000001/`` and so on hold ``hosts.parquet``,
``services.parquet`` and ``families.parquet`` of some snapshots each. A part appears under its name
when it is complete, so a run that was interrupted goes on after the last one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator._version import __version__
from estimator.errors import TargetError, UsageError
from estimator.fleet.one_host import HostRows, Question
from estimator.snapshot.private import bring_to_disk

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()

HOSTS = pa.schema(
    [
        *((name, _TEXT) for name in ("key", "place", "fingerprint", "picture", "problem")),
        ("passing", pa.bool_()),  # another try may succeed
        *((name, _TEXT) for name in ("host", "boot_id", "machine_id", "release", "collected_at")),
        ("collected_seconds", _REAL),
        *((name, _INT) for name in ("page_bytes", "processes", "anonymous_bytes", "saved_bytes")),
        *((name, _INT) for name in ("net_bytes", "general_profit_bytes")),
        *((name, _INT) for name in ("pages_shared", "pages_sharing", "read_pages")),
        *((name, _INT) for name in ("candidate_pages", "changed_pages", "scanned_pages")),
        ("scanned_bytes", _INT),
        *((name, _REAL) for name in ("first_cores_least", "first_cores_most")),
        *((name, _REAL) for name in ("rest_cores_least", "rest_cores_most")),
        ("merged_pages", _INT),
        ("written_per_second", _REAL),
        ("written_share", _REAL),  # of the merged pages, within a minute, at most
        ("needed_bytes", pa.list_(_INT)),
    ]
)
"""One row per snapshot; ``problem``: why it is not counted, null where it is."""

SERVICES = pa.schema(
    [
        *((name, _TEXT) for name in ("key", "host", "service")),
        *((name, _INT) for name in ("processes", "ksm_rmap_items", "ksm_merging_pages")),
        *((name, _INT) for name in ("ksm_zero_pages", "unknown_pages", "scanned_pages")),
        *((name, _INT) for name in ("scanned_bytes", "records_bytes")),
        *((name, _REAL) for name in ("saved_bytes", "net_bytes")),
    ]
)
FAMILIES = pa.schema([("key", _TEXT), ("kept", pa.bool_()), ("family", _TEXT), ("bytes", _INT)])
SCHEMAS = {"hosts": HOSTS, "services": SERVICES, "families": FAMILIES}
SUFFIX = ".fleet"


@dataclass
class Part:
    """What was found and is not on the disk yet. ``name``: of the directory, once it is written.

    An interrupt may come at any moment: a snapshot is here with all of its rows, or not at all.
    """

    name: str | None = None
    _found: list[tuple[dict[str, Any], pa.RecordBatch | None, pa.RecordBatch | None]] = field(
        default_factory=list
    )

    def __len__(self) -> int:
        return len(self._found)

    def add(self, host: dict[str, Any], rows: HostRows | None) -> None:
        """A snapshot: where it was found, and what was found in it, or None."""
        if rows:
            services = _batch(rows.services, SERVICES, host)
            self._found.append((host | rows.host, services, _batch(rows.families, FAMILIES, host)))
        else:
            self._found.append((host, None, None))

    def tables(self) -> dict[str, pa.Table]:
        """As Arrow tables, by name."""
        hosts, services, families = zip(*self._found, strict=True)
        return {
            "hosts": pa.Table.from_pylist(list(hosts), HOSTS),
            "services": pa.Table.from_batches(filter(None, services), SERVICES),
            "families": pa.Table.from_batches(filter(None, families), FAMILIES),
        }


def _batch(rows: pd.DataFrame, schema: pa.Schema, host: dict[str, Any]) -> pa.RecordBatch:
    """``rows``, with what is known of their ``host``."""
    columns = [
        pa.array(
            rows[column.name] if column.name in rows else [host[column.name]] * len(rows),
            column.type,
        )
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class Results:
    """The directory ``path``: made, or gone on with where the same was asked.

    Raises UsageError where it is there and something else was asked, TargetError where it can't be
    read or written.
    """

    def __init__(self, path: Path, question: Question, *, replace: bool = False) -> None:
        self.path = path
        asked = {"version": __version__} | question.to_json()
        try:
            if replace and (path / "fleet.json").is_file():
                shutil.rmtree(path)
            if path.is_dir() and any(path.iterdir()):
                self._require(asked)
            else:
                path.mkdir(mode=0o700, exist_ok=True)
                path.chmod(0o700)
                _write_private(path, "fleet.json", json.dumps(asked, indent=1).encode())
            for left in path.glob(".part-*"):
                shutil.rmtree(left)
        except OSError as error:
            raise TargetError(f"{path} can't be written: {error.strerror or error}") from error

    def _require(self, asked: dict[str, Any]) -> None:
        try:
            before = json.loads((self.path / "fleet.json").read_text())
        except (FileNotFoundError, ValueError):
            raise UsageError(
                f"{self.path} is there and holds no answers of a fleet",
                hint="choose another name",
            ) from None
        other = [name for name in asked if before.get(name) != asked[name]]
        if other:
            raise UsageError(
                f"{self.path} was made with another {', '.join(other)}",
                hint="replace it with --force, or choose another name",
            )

    def parts(self) -> list[Path]:
        """The complete parts, oldest first."""
        return sorted(self.path.glob("part-*"))

    def write(self, part: Part) -> None:
        """Add ``part``, unless it was before; it is on the disk afterwards, or not there at all."""
        if not len(part):
            return
        if part.name is None:
            last = self.parts()
            number = int(last[-1].name.removeprefix("part-")) + 1 if last else 1
            part.name = f"part-{number:06}"
        if (self.path / part.name).exists():
            return
        building = self.path / f".part-{secrets.token_hex(8)}"
        try:
            building.mkdir(mode=0o700)
            for name, table in part.tables().items():
                with os.fdopen(_create(building / f"{name}.parquet"), "wb") as file:
                    pq.write_table(table, file, compression="zstd")
                    bring_to_disk(file)
            building.rename(self.path / part.name)
        except OSError as error:
            raise TargetError(f"{self.path} can't be written: {error.strerror}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def hosts(self) -> pd.DataFrame:
        """All rows of ``HOSTS``, of each place the newest."""
        tables = [pq.read_table(part / "hosts.parquet", schema=HOSTS) for part in self.parts()]
        found = pa.concat_tables([HOSTS.empty_table(), *tables]).to_pandas()
        return found.drop_duplicates("place", keep="last").reset_index(drop=True)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _write_private(directory: Path, name: str, content: bytes) -> None:
    """The file ``name``; or nothing is left, nor an empty ``directory``."""
    building = directory / f".{name}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(_create(building), "wb") as file:
            file.write(content)
        building.rename(directory / name)
    except BaseException:
        building.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise
