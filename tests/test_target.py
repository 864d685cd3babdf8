"""Which processes of a kernel are this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from estimator.kernel import target
from estimator.kernel.target import Target

PIDS = np.array([1, os.getpid(), os.getpid() + 1], np.int32)


def of_kind(kind: str) -> Target:
    return Target(cast(Any, None), cast(Any, None), kind, "", "")


@pytest.mark.parametrize(
    ("kind", "namespace", "ours"),
    [
        ("live", 0xEFFF_FFFC, [False, True, False]),
        ("live", 0xF000_0001, [False] * 3),  # a container: the number may be another's out there
        ("qemu", 0xEFFF_FFFC, [False] * 3),
        ("core", 0xEFFF_FFFC, [False] * 3),
    ],
)
def test_our_own_pid(
    kind: str, namespace: int, ours: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Link(type(Path())):  # type: ignore[misc]
        def stat(self, **_: object) -> os.stat_result:
            return os.stat_result((0, namespace, 0, 0, 0, 0, 0, 0, 0, 0))

    monkeypatch.setattr(target, "_PID_NAMESPACE", Link("/proc/self/ns/pid"))
    assert of_kind(kind).ours(PIDS).tolist() == ours
