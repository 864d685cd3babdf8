"""What people call cgroups and VMAs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd


def unit_of(cgroup: str) -> str:
    """The name people know a cgroup by: its systemd unit, else its last path component.

    >>> unit_of("/system.slice/nginx.service/worker")
    'nginx.service'
    """
    parts = [part for part in cgroup.split("/") if part]
    for part in reversed(parts):
        if part.endswith((".service", ".scope")):
            return part
    return parts[-1] if parts else "/"


def units_of(cgroups: pd.Series[str]) -> pd.Series[str]:
    """``unit_of`` of each."""
    return cgroups.map({cgroup: unit_of(cgroup) for cgroup in cgroups.unique()})


def is_below(cgroups: pd.Series[str], path: str) -> pd.Series[bool]:
    """Which of ``cgroups`` lie below ``path``, itself left out."""
    return cgroups.str.startswith(path.rstrip("/") + "/")


def vma_labels(vmas: pd.DataFrame) -> npt.NDArray[np.object_]:
    """What to call VMAs that belong together across processes (str per row of ``vmas``).

    Their name; nameless ones, anonymous mmaps, go by their size, which is the same in every process
    of a program where addresses are not.
    """
    size_mib = ((vmas["end"] - vmas["start"]).to_numpy() >> np.uint64(20)).tolist()
    return np.array(
        [
            name or (f"(anonymous, {mib:,} MiB)" if mib else "(anonymous, below 1 MiB)")
            for name, mib in zip(vmas["name"], size_mib, strict=True)
        ],
        np.object_,
    )
