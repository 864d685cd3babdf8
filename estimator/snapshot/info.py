"""What ``snapshot.json`` says, value by value: of what kind each one is.

A value that is missing is an older snapshot's; who needs it says so. One of another kind is damage.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from estimator.snapshot.format import CONTENTS, PAGE_SIZES

Kind = Callable[[Any], bool]
_MOST = 1 << 64
_LONGEST_SHOWN = 60


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST


def _count(value: Any) -> bool:
    return _integer(value) and value >= 0


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not _truth(value) and 0 <= value < math.inf


def _moment(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _one_of(*values: Any) -> Kind:
    return lambda value: type(value) in map(type, values) and value in values


def _or_null(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def _list_of(kind: Kind) -> Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _each(kind: Kind) -> Kind:
    """An object, whatever the names in it."""
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _orders(value: Any) -> bool:
    """``thp_orders``: a bit per order, by the file that says it."""
    return _each(_count)(value) and value.keys() == {"always", "madvise", "inherit"}


_SECTION: Kind = _each(lambda _: True)
KINDS: dict[str, Kind] = {
    "program_version": _text,
    "kernel": _SECTION,
    "kernel.release": _text,
    "kernel.machine": _text,
    "kernel.page_size": _one_of(*PAGE_SIZES),
    "kernel.build_id": _or_null(_text),
    "kernel.uptime_seconds": _or_null(_seconds),
    "kernel.wall_clock": _or_null(_moment),
    "source": _SECTION,
    "source.kind": _text,
    "source.path": _text,
    "source.format": _or_null(_text),
    "source.warnings": _list_of(_text),
    "host": _or_null(_text),
    "boot_id": _or_null(_text),
    "machine_id": _or_null(_text),
    "collected_at": _moment,
    "collect_seconds": _seconds,
    "hash": _SECTION,
    "hash.name": _text,
    "hash.seed": _count,
    "hash.seed_id": _text,
    "ksm": _SECTION,
    "ksm.counters": _each(_integer),
    "ksm.ksmd_cpu_ns": _or_null(_count),
    "sizes": _each(_count),
    "features": _each(_truth),
    "features_by_release": _list_of(_text),
    "symbols": _or_null(_text),
    "thp_enabled": _or_null(_text),
    "thp_orders": _or_null(_orders),
    "damon_runs": _truth,
    "damon_awake": _count,
    "zero_page_tagged": _or_null(_truth),
    "without_contents": _truth,
    "contents": _one_of(*CONTENTS),
    "part_of_host": _or_null(_each(_count)),
    "unreadable_processes": _list_of(_text),
    "unknown": _each(_count),
    "not_known": _each(_text),
}
"""By the way to a value, its names joined by dots. All other values of ``ksm`` are tunables."""
_REQUIRED = (
    *("kernel", "kernel.release", "kernel.page_size", "source", "hash", "ksm", "ksm.counters"),
    *("sizes", "features", "unknown"),
)


def wrong_values(info: Any) -> Iterator[str]:
    """What can't be so in ``info``, in words."""
    if not isinstance(info, dict):
        yield "snapshot.json is no object"
        return
    for way, kind in KINDS.items():
        section, _, name = way.rpartition(".")
        values = info.get(section) if section else info
        if not isinstance(values, dict):
            continue  # said of the section
        if name in values:
            if not kind(values[name]):
                yield _wrong(way, values[name])
        elif way in _REQUIRED:
            yield f"snapshot.json has no {way!r}"
    ksm = info.get("ksm")
    for name, value in ksm.items() if isinstance(ksm, Mapping) else ():
        if f"ksm.{name}" not in KINDS and not (value is None or _count(value)):
            yield _wrong(f"ksm.{name}", value)


def _wrong(way: str, value: Any) -> str:
    shown = repr(value)
    if len(shown) > _LONGEST_SHOWN:
        shown = shown[:_LONGEST_SHOWN] + " ..."
    return f"in snapshot.json {way} can't be {shown}"
