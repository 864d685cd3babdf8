"""What is one service on many machines: names without what numbers their instances."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

from estimator.errors import UsageError
from estimator.units import printable

By = Literal["unit", "comm", "cgroup"]

_INSTANCE = (
    (re.compile(r"@[^/@]*(?=\.(?:service|scope|slice)(?:/|$))"), "@*"),
    (re.compile(r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"), "*"),
    (re.compile(r"(?<![0-9a-z])[0-9a-f]{12,}(?![0-9a-z])"), "*"),
    (re.compile(r"(?<=[-_:/.])\d+(?=[-_:/.]|$)"), "*"),
)


def kind_of(name: str) -> str:
    """``name`` of a unit or cgroup, or a pattern that stands for it and its like.

    >>> [kind_of(name) for name in ("web@3.service", "session-12.scope", "nginx.service")]
    ['web@*.service', 'session-*.scope', 'nginx.service']
    """
    for pattern, instead in _INSTANCE:
        name = pattern.sub(instead, name)
    return name


class Roles:
    """Which role a host has, by a file of lines "HOST-PATTERN ROLE"; the first that fits counts.

    Empty lines and those that begin with # are passed over.
    """

    def __init__(self, lines: Iterable[str] = (), source: str = "") -> None:
        self.source = source
        self.patterns: list[tuple[str, str]] = []
        for number, line in enumerate(lines, 1):
            pattern, _, role = line.strip().partition(" ")
            if not pattern or pattern.startswith("#"):
                continue
            if not role.strip():
                told = printable(line.strip())
                raise UsageError(f"{source}, line {number}: {told!r} is not HOST-PATTERN ROLE")
            self.patterns.append((pattern, role.strip()))

    def of(self, host: str | None) -> str | None:
        """The role of ``host``; None: it has none."""
        named = (role for pattern, role in self.patterns if fnmatchcase(host or "", pattern))
        return next(named, None)

    def require_all_used(self, hosts: Iterable[str]) -> None:
        """Raise UsageError for a pattern that no host fits: a role would be missing unseen."""
        known = sorted(set(hosts))
        for pattern, role in self.patterns:
            if not any(fnmatchcase(host, pattern) for host in known):
                raise UsageError(
                    f"{self.source}: no host fits {printable(pattern)} ({printable(role)})",
                    hint=f"there are {', '.join(map(printable, known[:5])) or 'no named hosts'}",
                )
