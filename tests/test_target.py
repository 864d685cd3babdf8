"""Which processes of a kernel are this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from estimator.collect import namespaces
from estimator.kernel import target
from estimator.kernel.target import Target

PIDS = np.array([1, os.getpid(), os.getpid() + 1], np.int32)


@pytest.mark.parametrize(
    ("kind", "first", "ours"),
    [
        ("live", True, [False, True, False]),
        ("live", None, [False, True, False]),  # a kernel without namespaces
        ("live", False, [False] * 3),  # a container: the number may be another's out there
        ("qemu", True, [False] * 3),
        ("core", True, [False] * 3),
    ],
)
def test_our_own_pid(
    kind: str, first: bool | None, ours: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if first is not None:
        file = tmp_path / "self/ns/pid"
        file.parent.mkdir(parents=True)
        file.touch()
        monkeypatch.setitem(namespaces.FIRST, "pid", file.stat().st_ino + (not first))
    monkeypatch.setattr(target, "_PROC", tmp_path)
    opened = Target(cast(Any, None), cast(Any, None), kind, "", "")
    assert opened.ours(PIDS).tolist() == ours
