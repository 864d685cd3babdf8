"""What an answer is of: which system, read how and when, and what was asked of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from estimator.snapshot.identity import host_name
from estimator.units import plural, printable

_TUNABLES = ("max_page_sharing", "use_zero_pages", "merge_across_nodes")
_SELECTORS = {"pids": "--pid", "comms": "--comm", "cgroups": "--cgroup", "uids": "--uid"}
_WAYS = {
    "procfs": "this system through /proc (--procfs)",
    "live": "the running kernel (--live)",
}
# what of info["not_known"] can change a prediction, and how
_NOT_KNOWN = {
    "processes.scan_order": "the order in which ksmd visits processes: that of their start is "
    "taken, which can move pages between counters, hardly the saving",
    "frames.flags": "which pages are pinned (O_DIRECT, VFIO, RDMA): they count as if they could "
    "merge, so the saving is an upper bound",
    "frames.folio_mapcount": "whether others map a piece of a huge page as well, or nobody does",
    "frames.batch_references": "which pages lie in per-CPU batches: ksmd may find them held at "
    "first, and merges them in a later scan",
    "features": "what of KSM this kernel has, where no file says it: its release decides",
}


def question_words(info: Mapping[str, Any], policy: Mapping[str, Any]) -> list[str]:
    """The first lines of an answer from a snapshot with ``info``; ``policy`` as JSON values."""
    return [_picture_words(info), f"Asked: {policy_words(policy, info.get('ksm', {}))}."]


def policy_words(policy: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Scope, selectors and tunables as they are typed; ``there``: how that kernel is set."""
    chosen = [f"--scope {policy.get('scope')}"]
    for name, option in _SELECTORS.items():
        chosen += [f"{option} {printable(str(value))}" for value in policy.get(name) or ()]
    chosen += [f"--as-if {name}" for name in policy.get("as_if") or ()]
    tunables = []
    for name in _TUNABLES:
        value = policy.get(name)
        if value is None:
            continue
        other = name in there and int(there[name]) != int(value)
        tunables.append(f"{name} {int(value)}" + (f" (there {there[name]})" if other else ""))
    return "; ".join([" ".join(chosen), ", ".join(tunables)] if tunables else [" ".join(chosen)])


def what_procfs_can_not_know(info: Mapping[str, Any]) -> list[str]:
    """What a snapshot through /proc leaves open and a prediction depends on; empty for others."""
    return [words for name, words in _NOT_KNOWN.items() if name in info.get("not_known", ())]


def host_words(info: Mapping[str, Any]) -> str:
    """The node name, where the kernel has one."""
    return host_name(info) or "an unnamed host"


def _picture_words(info: Mapping[str, Any]) -> str:
    kernel, source = info["kernel"], info.get("source", {})
    kind, path = source.get("kind"), source.get("path")
    way = {"core": f"the dump {path}", "qemu": f"the guest at {path} (--qemu)"} | _WAYS
    looks = int(info.get("passes", {}).get("count", 1))
    seen = f", {plural(looks, 'look')}" if looks > 1 else ""
    machine = f"{host_words(info)}, Linux {kernel['release']} ({kernel.get('machine', 'unknown')})"
    how = f"{way.get(kind, 'a snapshot')}, {when_words(info)}{seen}"
    return printable(f"Of {machine}: {how}.")


def when_words(info: Mapping[str, Any]) -> str:
    """The moment that a snapshot shows: a dump's own, where it says it, else that of reading."""
    clock, read = info["kernel"].get("wall_clock"), info.get("collected_at")
    if info.get("source", {}).get("kind") != "core":
        return f"read {_minute(read)}"
    return f"of {_minute(clock)}" if clock else f"read {_minute(read)}; its own time is not known"


def moment_words(moment: str | None) -> str:
    """Date, time of day and zone of an ISO 8601 ``moment``, to the second.

    >>> moment_words("2026-11-29T05:52:23+01:00"), moment_words("yesterday")
    ('2026-11-29 04:52:23 UTC', 'at an unknown time')
    """
    return _in_utc(moment, "%Y-%m-%d %H:%M:%S")


def _minute(moment: str | None) -> str:
    return _in_utc(moment, "%Y-%m-%d %H:%M")


def _in_utc(moment: str | None, form: str) -> str:
    try:
        time = datetime.datetime.fromisoformat(moment or "").astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return "at an unknown time"
    return f"{time:{form}} UTC"
