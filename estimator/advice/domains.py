"""Domains between which nothing is to merge: by fork family, by labels of a user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from estimator.advice.borders import set_signatures
from estimator.arrays import Empty, Ints
from estimator.errors import UsageError
from estimator.ksm.content_parts import rows_by_number
from estimator.snapshot.flags import FrameFlag, FrameKind
from estimator.snapshot.names import is_below
from estimator.snapshot.snapshot import Snapshot, vma_starts
from estimator.units import printable

_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)


def by_family(snapshot: Snapshot, empty: Empty = np.empty) -> Ints:
    """i64 per row of ``snapshot.processes``: which share anonymous pages by fork.

    exec ends that. A parent and a child that have no page in common any more are not seen to be of
    one family, nor is a child of which all pages were merged by ksmd. ``empty``: makes arrays of
    all mappings.
    """
    owner = np.arange(len(snapshot.processes))
    kind, mapcount = (snapshot.frames[name].to_numpy() for name in ("kind", "mapcount"))
    frame, vma = (snapshot.mappings[name].to_numpy() for name in ("frame_id", "vma_id"))
    mm_of_vma = snapshot.vmas["mm_id"].to_numpy()
    links = pd.DataFrame({"a": mm_of_vma[:0], "b": mm_of_vma[:0]})
    for rows in rows_by_number(frame, empty):
        rows = rows[(kind[frame[rows]] != FrameKind.KSM) & (mapcount[frame[rows]] > 1)]
        pairs = pd.DataFrame({"frame": frame[rows], "mm": mm_of_vma[vma[rows]]})
        pairs = pairs.drop_duplicates().sort_values(["frame", "mm"])
        same = pairs["frame"].to_numpy()[1:] == pairs["frame"].to_numpy()[:-1]
        mm = pairs["mm"].to_numpy()
        more = pd.DataFrame({"a": mm[:-1][same], "b": mm[1:][same]})
        links = pd.concat([links, more.drop_duplicates()]).drop_duplicates()

    def first(mm: int) -> int:
        while owner[mm] != mm:
            owner[mm] = owner[owner[mm]]
            mm = owner[mm]
        return mm

    for a, b in links.itertuples(index=False):
        one, other = first(a), first(b)
        owner[max(one, other)] = min(one, other)
    return np.array([first(mm) for mm in range(len(owner))], np.int64)


def by_labels(processes: pd.DataFrame, lines: Iterable[str], source: str) -> Ints:
    """i64 per row of ``processes``: a number for its label, see ``label_names``."""
    codes: Ints = pd.factorize(label_names(processes, lines, source))[0].astype(np.int64)
    return codes


def label_names(processes: pd.DataFrame, lines: Iterable[str], source: str) -> pd.Series[str]:
    """The label of each row of ``processes``, from lines "PID LABEL" or "/CGROUP LABEL".

    A cgroup stands for those below it; the longest one that fits counts. Empty lines and those that
    begin with # are passed over. Processes without a label are a domain, "", all together.
    Raises UsageError, naming ``source`` and the line, for a pid or cgroup that the snapshot does
    not have, for two labels of one process, and for what is no such line.
    """
    pids: dict[int, str] = {}
    cgroups: dict[str, str] = {}
    pid_of = processes["pid"].to_numpy()
    cgroup_of = processes["cgroup"].astype(str)
    for number, line in enumerate(lines, 1):
        key, _, label = line.strip().partition(" ")
        label = label.strip()
        where = f"{source}, line {number}"
        if not key or key.startswith("#"):
            continue
        if not label or not (key.isdecimal() or key.startswith("/")):
            what = printable(line.strip())
            raise UsageError(f"{where}: {what!r} is neither PID LABEL nor /CGROUP LABEL")
        if key.isdecimal():
            known = bool((pid_of == int(key)).any())
            before = pids.setdefault(int(key), label)
        else:
            key = key.rstrip("/") or "/"
            known = bool(_below(cgroup_of, key).any())
            before = cgroups.setdefault(key, label)
        if not known:
            raise UsageError(f"{where}: the snapshot has no {printable(key)}")
        if before != label:
            raise UsageError(
                f"{where}: {printable(key)} is {printable(before)} already, not {printable(label)}"
            )
    labels = pd.Series("", index=processes.index)
    for path in sorted(cgroups, key=len):
        labels[_below(cgroup_of, path)] = cgroups[path]
    for pid, label in pids.items():
        rows = pid_of == pid
        other = next((one for one in labels[rows] if one and one != label), None)
        if other is not None:
            raise UsageError(
                f"{source}: pid {pid} is {printable(label)} by its pid and {printable(other)} by "
                "its cgroup"
            )
        labels[rows] = label
    return labels


def separated(snapshot: Snapshot, domain_of_mm: Ints | None, *, keep_zero: bool) -> Snapshot:
    """``snapshot`` as if equal pages of different domains had different bytes.

    A frame that fork shares between several domains belongs to neither of them, but to one of its
    own for this set of domains. None: every frame is on its own. ``keep_zero``: zero-filled pages
    stay equal, since it is the kernel's zero page that they go to and nobody's.
    """
    frames = snapshot.frames
    if domain_of_mm is None:
        word = np.arange(1, len(frames) + 1, dtype=np.uint64) * _MIX
    else:
        frame = snapshot.mappings["frame_id"].to_numpy()
        domain_of_vma = domain_of_mm[snapshot.vmas["mm_id"]]
        word = np.zeros(len(frames), np.uint64)
        for some, of_frame in set_signatures(frame, vma_starts(snapshot), domain_of_vma):
            word[some] = of_frame
    if keep_zero:
        zero = (frames["flags"].to_numpy() & FrameFlag.ZERO) != 0
        word = np.where(zero, np.uint64(0), word)
    hashes = frames["hash"].to_numpy(np.uint64, na_value=0) ^ word
    unknown = frames["unknown"].to_numpy() != 0
    apart = frames.assign(hash=pd.arrays.IntegerArray(hashes, unknown))
    return replace(snapshot, frames=apart)


def _below(cgroups: pd.Series[str], path: str) -> pd.Series[bool]:
    return (cgroups == path) | is_below(cgroups, path)
