"""The snapshot: what was found in a kernel's memory, as Parquet tables, nothing interpreted.

A snapshot is a directory ``NAME.ksm/`` of Parquet files and one ``snapshot.json``. It holds facts
(this frame has this hash), never decisions (this page will merge), so that one snapshot answers
every what-if. Row order carries meaning and is kept:

- ``processes``: ksmd's scan order (the mms on its list first, in list order; then the others by
  start time and pid). ``mm_id`` is the row number.
- ``vmas``: by ``mm_id``, then ``start``. ``vma_id`` is the row number.
- ``mappings``: by ``vma_id``, then ``page_index``. The row number is the place in a full scan.
- ``frames``: by ``pfn``. ``frame_id`` is the row number.
- ``other_mappings``, ``other_frames``, where contents of other memory were asked for: likewise.

Named ``NAME.ksm.tar`` it is one file instead, with the same in it (``archive``).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.arrays import Columns, Empty, one_ahead
from estimator.errors import TargetError
from estimator.packed import Packed
from estimator.signals import interrupts_wait
from estimator.snapshot.archive import STREAM, is_archive, read_members, write_members
from estimator.snapshot.as_arrow import to_arrow
from estimator.snapshot.format import CONTENTS, FORMAT_VERSION
from estimator.snapshot.gathered import Gathered
from estimator.snapshot.private import bring_to_disk, create, refuse_existing, require_ours
from estimator.snapshot.schema import I32, OTHERS, ROW_GROUP_ROWS, SCHEMAS, TABLES, columns_of

if TYPE_CHECKING:
    import pandas as pd

    from estimator.snapshot.snapshot import Snapshot

_INFO = "snapshot.json"
_FILES = {_INFO} | {f"{name}.parquet" for name in TABLES}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ALL = slice(None)
_COUNTED = ("mappings", "frames")  # tables, and other ones of these names
_ASCENDING = {"pfn", "head_pfn", "page_index", "frame_id"}

# The name of each file, and what writes it into an open one.
_Files: TypeAlias = Iterator[tuple[str, Callable[[Any], Any]]]


def _row_groups(name: str, table: pd.DataFrame | Columns | dict[str, Packed]) -> Iterator[pa.Table]:
    schema = columns_of(name, table)
    size = len(table[schema.names[0]])
    for start in range(0, size, ROW_GROUP_ROWS):
        rows = slice(start, min(start + ROW_GROUP_ROWS, size))
        arrays = [to_arrow(table[f.name], f, rows) for f in schema]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _nest_items(nodes: pd.DataFrame | Columns, items: pd.DataFrame | Columns) -> pa.Table:
    schema = SCHEMAS["stable_nodes"]
    struct = schema.field("items").type.value_type
    if not isinstance(items, dict):  # those of a collection stand by node
        items = items.sort_values("node_id", kind="stable")
    values = pa.StructArray.from_arrays(
        [to_arrow(items[f.name], f, _ALL) for f in struct], fields=list(struct)
    )
    numbers = np.arange(len(nodes["node_id"]) + 1)
    offsets = np.searchsorted(np.asarray(items["node_id"]), numbers).astype(np.int32)
    lists = pa.ListArray.from_arrays(to_arrow(offsets, pa.field("offsets", I32), _ALL), values)
    arrays = [lists if f.name == "items" else to_arrow(nodes[f.name], f, _ALL) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_snapshot(
    snapshot: Snapshot | Gathered, path: Path, *, replace: bool = False, two_cores: bool = False
) -> None:
    """Write ``snapshot`` to the new directory ``path`` (0700, files 0600), or as one file.

    ``NAME.tar`` is one file, - is stdout. Else built beside ``path``, brought to the disk, and
    renamed at the end: a snapshot that exists is complete, after a power cut too. ``replace``: a
    snapshot that is there goes. ``two_cores``: rows are made ready while others are written. Raises
    TargetError if ``path`` exists or can't be written, for want of space or rights; nothing is left
    behind then.
    """
    check_output(path, replace=replace)
    if path == STREAM:
        try:
            write_members(_members(_files(snapshot, two_cores)), sys.stdout.buffer, "snapshot.ksm")
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise TargetError("who reads the snapshot has gone before it was whole") from error
        return
    write = _write_file if is_archive(path) else _write
    try:
        parent = os.open(path.parent, _DIRECTORY)
        try:
            with interrupts_wait() as interrupt:
                write(_files(snapshot, two_cores, interrupt), path.name, parent, replace)
        finally:
            os.close(parent)
    except OSError as error:
        what = error.strerror or str(error)
        raise TargetError(
            f"{path} can't be written: {what}; nothing is left of it",
            hint="write it elsewhere" if error.errno in _NO_SPACE else None,
        ) from error


def _members(files: _Files) -> Iterator[tuple[str, bytes]]:
    """Name and content of each."""
    for name, write in files:
        buffer = io.BytesIO()
        write(buffer)
        yield name, buffer.getvalue()


def _write_file(files: _Files, name: str, parent: int, replace: bool) -> None:
    """Write it as one file ``name`` in the directory open as ``parent``."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    written: list[str] = []
    try:
        with create(temporary, parent, written) as file:
            write_members(_members(files), file, name.removesuffix(".tar"))
            bring_to_disk(file)
        if not replace:
            refuse_existing(name, parent)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        for left in written:
            os.unlink(left, dir_fd=parent)
        raise
    with contextlib.suppress(OSError):
        os.fsync(parent)


def _write(files: _Files, name: str, parent: int, replace: bool) -> None:
    """Write it as ``name`` in the directory open as ``parent``, whoever else may write there."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    os.mkdir(temporary, 0o700, dir_fd=parent)
    try:
        directory = os.open(temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        written: list[str] = []
        try:
            require_ours(directory)
            _fill(files, directory, written)
            if replace:
                _remove(name, parent)
            refuse_existing(name, parent)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            for left in written:
                os.unlink(left, dir_fd=directory)
            raise
        finally:
            os.close(directory)
    except BaseException:
        with contextlib.suppress(OSError):  # what somebody else put in its place is left alone
            os.rmdir(temporary, dir_fd=parent)
        raise
    with contextlib.suppress(OSError):  # it is there, even if a power cut may undo the rename
        os.fsync(parent)


def _fill(files: _Files, directory: int, written: list[str]) -> None:
    """Write ``files``, and their names into ``written``."""
    for name, write in files:
        with create(name, directory, written) as file:
            write(file)
            bring_to_disk(file)
    os.fsync(directory)


def _files(
    snapshot: Snapshot | Gathered, two_cores: bool, between: Callable[[], None] = lambda: None
) -> _Files:
    """Those of ``snapshot``; ``between`` is called before each group of rows is written."""
    for name in TABLES:
        table = getattr(snapshot, name)
        if table is None:
            continue
        groups = (
            iter([_nest_items(table, snapshot.stable_items)])
            if name == "stable_nodes"
            else _row_groups(name, table)
        )
        groups = _each(one_ahead(groups) if two_cores else groups, between)
        yield f"{name}.parquet", partial(_write_table, columns_of(name, table), groups)
    info = json.dumps(snapshot.info, indent=1).encode()
    yield _INFO, lambda file: file.write(info)


def _remove(name: str, parent: int) -> None:
    """Remove the snapshot ``name``, if there is one. Raises OSError if that is something else."""
    try:
        directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        found = os.listdir(directory)
        if _INFO not in found or not _FILES.issuperset(found):
            raise OSError(errno.EEXIST, "what is there is no snapshot")
        for each in found:
            os.unlink(each, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _each(groups: Iterator[pa.Table], between: Callable[[], None]) -> Iterator[pa.Table]:
    for group in groups:
        between()
        yield group


def _write_table(schema: pa.Schema, groups: Iterator[pa.Table], file: Any) -> None:
    """In row groups: nobody has to hold all rows twice. Numbers that go up are differences."""
    names = {field.name for field in schema if pa.types.is_integer(field.type)}
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[f.name for f in schema if pa.types.is_string(f.type)],
        column_encoding=dict.fromkeys(names & _ASCENDING, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)


def check_output(path: Path, *, replace: bool = False) -> None:
    """Raise TargetError if a snapshot can't be made at ``path``; say so before any long work."""
    if path == STREAM:
        if sys.stdout.isatty():
            raise TargetError("a snapshot is not for a terminal", hint="-o NAME.ksm, or a pipe")
        return
    if os.path.lexists(path) and not replace:
        raise TargetError(
            f"{path} exists already",
            hint="choose another name or remove it (collect, run: --force)",
        )
    if not path.parent.is_dir():
        raise TargetError(f"{path.parent} is not a directory", hint=f"mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise TargetError(f"{path.parent} can't be written", hint="choose another directory")


def open_snapshot(
    path: str | os.PathLike[str],
    *,
    others: bool = True,
    stored: bool = False,
    allow: Callable[[int, int], Empty | None] | None = None,
) -> Snapshot:
    """Read the snapshot ``path``: a directory, a tar archive of it, or - for one on stdin.

    Without ``others`` the tables of other than anonymous memory are passed over, if there are any.
    ``stored``: mappings and frames stay in their files, and are read column by column, each time
    that they are asked for. Format 1 is read too. ``allow`` is called with the numbers of mappings
    and frames before any of them is read, and may raise; what it gives makes the arrays of
    ``stored`` columns, each of which is read once then. Raises TargetError for a missing file, a
    newer format, a missing column, a wrong type, and for rows whose order or numbers can't be those
    of a collection (``checks``); CannotAnswerError for more rows than there are numbers for.
    """
    return open_snapshots([path], others=others, stored=stored, allow=allow)[0]


def open_snapshots(
    paths: Sequence[str | os.PathLike[str]],
    *,
    others: bool = True,
    stored: bool = False,
    allow: Callable[[int, int], Empty | None] | None = None,
) -> list[Snapshot]:
    """Read several as ``open_snapshot`` does; ``allow`` is called once, with the sums of all."""
    found = [_look_into(Path(path), others) for path in paths]
    empty = None
    if allow is not None:
        mappings, frames = (sum(each.count_rows(of) for each in found) for of in _COUNTED)
        empty = allow(mappings, frames)
    return [each.read(stored, empty) for each in found]


@dataclass(frozen=True)
class _Closed:
    """A snapshot of which ``info`` was read alone. ``wanted``: the tables to read."""

    place: Path
    files: Mapping[str, Path | bytes]
    info: Any
    version: int
    wanted: list[str]

    def count_rows(self, kind: str) -> int:
        """Of the wanted tables of a kind, as ``_COUNTED`` has them, together."""
        from estimator.snapshot.read_tables import count_rows

        tables = (name for name in self.wanted if name.endswith(kind))
        return sum(count_rows(self.place, self.files, name) for name in tables)

    def read(self, stored: bool, empty: Empty | None) -> Snapshot:
        """See ``open_snapshot``."""
        from estimator.snapshot.checks import check_snapshot
        from estimator.snapshot.format_1 import from_format_1
        from estimator.snapshot.read_tables import read_table
        from estimator.snapshot.snapshot import Snapshot

        place, files, version = self.place, self.files, self.version
        stored = stored and version == FORMAT_VERSION
        reading = partial(read_table, place, files, version=version, stored=stored, empty=empty)
        tables: dict[str, Any] = {name: reading(name) for name in self.wanted}
        items = tables["stable_nodes"].attrs.pop("items")
        snapshot = Snapshot(info=self.info, stable_items=items, **tables)
        if version == 1:
            snapshot = from_format_1(snapshot)
        check_snapshot(str(place), snapshot)
        return snapshot


def _look_into(place: Path, others: bool) -> _Closed:
    files = _open_files(place, _FILES)
    info = _read_info(place, files)
    try:
        version = info["format_version"]
    except (KeyError, TypeError) as error:
        raise TargetError(f"{place}: no readable {_INFO} ({error})") from error
    if version not in (1, FORMAT_VERSION):
        raise TargetError(
            f"{place} has snapshot format {version}, this program reads 1 to {FORMAT_VERSION}",
            hint="use the version of ksm-estimator that wrote it, or collect again",
        )
    wanted = list(SCHEMAS)
    if others and info.get("contents", CONTENTS[0]) != CONTENTS[0]:
        wanted += OTHERS
    return _Closed(place, files, info, version, wanted)


def read_info(path: Path) -> Any:
    """What ``snapshot.json`` of the snapshot ``path`` holds; raises as ``open_snapshot``."""
    return _read_info(path, _open_files(path, {_INFO}))


def _open_files(place: Path, wanted: Set[str]) -> Mapping[str, Path | bytes]:
    """Where each of the files is: in the directory ``place``, or in memory."""
    try:
        there, is_directory = place == STREAM or place.exists(), place.is_dir()
        has_info = is_directory and (place / _INFO).exists()
        if there and not is_directory:
            return read_members(place, wanted)
    except OSError as error:
        raise _unreadable(place, error) from error
    if is_directory:
        if not has_info:
            raise TargetError(
                f"{place} is a directory, but no snapshot: it has no {_INFO}",
                hint="name the snapshot itself, a directory (or .tar) that collect wrote",
            )
        for name in wanted:
            _require_file(place / name)
        return {name: place / name for name in wanted}
    raise TargetError(
        f"{place} does not exist",
        hint="make a snapshot with: ksm-estimator collect --core VMCORE|--procfs -o NAME.ksm",
    )


def _require_file(path: Path) -> None:
    """Raise TargetError for what can't be one of a snapshot: to open a pipe would wait for ever."""
    with contextlib.suppress(OSError):  # of which reading tells
        if path.exists() and not path.is_file():
            raise TargetError(
                f"{path} is no file",
                hint="a snapshot is a directory of files, or a tar archive of it",
            )


def _unreadable(place: Path, error: OSError) -> TargetError:
    """With its owner, where only that one may read it."""
    hint = None
    if isinstance(error, PermissionError):
        hint = "ask as its owner"
        with contextlib.suppress(OSError, KeyError, ImportError, RuntimeError):
            hint += f", {place.owner()}"
        hint += ": a snapshot is private (with sudo, it is root's)"
    return TargetError(f"{place} can't be read: {error.strerror or error}", hint=hint)


def _read_info(place: Path, files: Mapping[str, Path | bytes]) -> Any:
    try:
        source = files[_INFO]
        return json.loads(source if isinstance(source, bytes) else source.read_text())
    except PermissionError as error:
        raise _unreadable(place, error) from error
    except (OSError, ValueError, KeyError) as error:
        raise TargetError(f"{place}: no readable {_INFO} ({error})") from error
