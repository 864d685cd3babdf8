"""What a person can do to opt something in: the lines that a plan is chosen from.

A *line* is one thing to do, once: a drop-in of a systemd service (``unit``), a program started by a
launcher that opts in (``program``), the configuration of a virtual machine (``vm``), or a call to
madvise() in a program's source for VMAs of one name (``vma``). Lines don't overlap. Whole services
come before programs, programs before VMAs; a single VMA takes the place of its service or program
only where that saves much (``SAVES_MUCH``, ``SCANS_LITTLE``), and only for who says that they can
change the source. What takes part already needs no line.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from estimator.advice.frontier import Peeling
from estimator.advice.host import guest_memory, host_of, is_virtual_machine, machine_names
from estimator.advice.patterns import patterns
from estimator.arrays import Ints, Mask
from estimator.errors import UsageError
from estimator.ksm.candidates import on_ksmds_list
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.names import unit_of, vma_labels
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

Means = Literal["unit", "program", "vma", "vm"]
MEANS: dict[str, Means] = {"systemd": "unit", "prctl": "program", "vm": "vm", "madvise": "vma"}
"""By the names that a person chooses them by."""

SAVES_MUCH, SCANS_LITTLE = 0.9, 0.5
"""A VMA stands for its service or program if it brings so much of it with so little to scan."""

INIT = 1  # pid

KEYS = ["means", "cgroup", "comm", "name"]


@dataclass(frozen=True)
class OptIns:
    """The lines to choose from.

    ``lines``: means, cgroup, comm (of a ``vm``: its name), name (label of VMAs, for ``vma``), uid
    (-1 but where lines are kept apart by it). ``line_of_vma``: i64 per row of ``snapshot.vmas``, -1
    for none. ``on``: bool per VMA, it takes part already and only KSM has to run.
    """

    lines: pd.DataFrame
    line_of_vma: Ints
    on: Mask


def default_means(snapshot: Snapshot) -> tuple[Means, ...]:
    """Whole services, programs and machines; single VMAs where the kernel has no prctl.

    No services where exec forgets what systemd has set.
    """
    if not snapshot.info["features"].get("merge_any_prctl", True):
        return ("vma", "vm")
    return ("unit", "program", "vm") if host_of(snapshot).exec_keeps else ("program", "vm")


def opt_ins(
    snapshot: Snapshot,
    everything: Prediction,
    only: Collection[Means] = (),
    *,
    apart_by_uid: bool = False,
) -> OptIns:
    """The lines for what takes part in ``everything``; ``only``: by these means.

    Raises UsageError for means that this kernel does not have.
    """
    means = tuple(only) or default_means(snapshot)
    has_prctl = snapshot.info["features"].get("merge_any_prctl", True)
    if not has_prctl and {"unit", "program"} & {*means}:
        raise UsageError(
            f"kernel {snapshot.info['kernel']['release']} has no prctl(PR_SET_MEMORY_MERGE): "
            "only madvise is left there",
            hint="leave out --only prctl and --only systemd",
        )
    table = _vmas(snapshot, everything)
    if not apart_by_uid:
        table["uid"] = -1
    on = table["takes_part"] & table["on"]
    whole = _lines(table, means)
    if "vma" in means and {"unit", "program"} & {*means}:
        whole = _with_single_vmas(snapshot, everything, table, whole)
    keys = [*KEYS, "uid"]
    line_of_vma = _numbers(whole)
    lines = whole.loc[line_of_vma >= 0, keys].drop_duplicates().reset_index(drop=True)
    return OptIns(lines, line_of_vma, on.to_numpy())


def visited_pages(
    snapshot: Snapshot, prediction: Prediction, group_of_vma: Ints, groups: int
) -> Ints:
    """Pages that ksmd visits, per group of VMAs (i64 (groups,))."""
    visited = np.zeros(groups + 1, np.int64)  # of no group: at the end
    for piece, some in in_pieces(snapshot.mappings, ("vma_id",)):
        candidates = prediction.outcome[piece] != Outcome.NOT_CANDIDATE
        np.add.at(visited, group_of_vma[some["vma_id"].to_numpy()[candidates]], 1)
    return visited[:groups]


def service_cgroup(cgroup: str) -> str:
    """The cgroup of the systemd service that owns ``cgroup``, if a drop-in can say MemoryKSM=; "".

    >>> service_cgroup("/system.slice/nginx.service/worker"), service_cgroup("/init.scope")
    ('/system.slice/nginx.service', '')
    """
    unit = unit_of(cgroup)
    if not unit.endswith(".service"):
        return ""
    before, found, _ = cgroup.rpartition(f"/{unit}")
    return before + found


def _vmas(snapshot: Snapshot, everything: Prediction) -> pd.DataFrame:
    """One row per VMA: whose it is, whether it takes part, is on, or is a machine's or pid 1's."""
    mm = snapshot.vmas["mm_id"].to_numpy()
    owners = snapshot.processes[["cgroup", "comm", "uid"]].iloc[mm].reset_index(drop=True)
    mergeable = snapshot.vmas["mergeable"].to_numpy()
    takes_part = np.zeros(len(mm), np.bool_)
    ours = everything.vmas["excluded_by"].isna()
    takes_part[everything.vmas.loc[ours, "vma_id"].to_numpy()] = True
    machine = is_virtual_machine(snapshot.processes)
    offered = np.zeros(len(machine), np.bool_)
    offered[mm[mergeable]] = True
    guest = guest_memory(snapshot)
    with_guest = np.zeros(len(machine), np.bool_)
    with_guest[mm[guest]] = True
    return owners.assign(
        label=vma_labels(snapshot.vmas),
        takes_part=takes_part,
        on=mergeable & on_ksmds_list(snapshot)[mm],
        init=(snapshot.processes["pid"] == INIT).to_numpy()[mm],
        guest=guest & ~offered[mm],
        machine=machine_names(snapshot.processes)[mm],
        # QEMU decides itself what it offers: the rest of it is no guest's memory
        settled=(machine & (offered | with_guest))[mm],
    )


def _lines(table: pd.DataFrame, means: Collection[Means]) -> pd.DataFrame:
    """``KEYS`` and uid per VMA of ``table``; null where it has no line.

    What is inherited through exec leaves out the stack (ksm-model §1.1). Nobody types a command
    that starts pid 1, and all that it starts would inherit.
    """
    services = {cgroup: service_cgroup(cgroup) for cgroup in table["cgroup"].unique()}
    service = table["cgroup"].map(services)
    open_ = table["takes_part"] & ~table["on"]
    inherits = open_ & ~table["settled"] & ~table["init"] & (table["label"] != "[stack]")
    choices: dict[Means, pd.Series[bool]] = {
        "vm": open_ & table["guest"],
        "unit": inherits & (service != ""),
        "program": inherits,
        "vma": open_ & ~table["settled"],
    }
    allowed = [name for name in choices if name in means]
    chosen = np.select([choices[name] for name in allowed], allowed, "").astype(object)
    unit, machine = chosen == "unit", chosen == "vm"
    return pd.DataFrame(
        {
            "means": pd.Series(chosen).where(chosen != "", None),
            "cgroup": np.where(unit, service, table["cgroup"]),
            "comm": np.select([unit, machine], ["", table["machine"]], table["comm"]),
            "name": np.where(chosen == "vma", table["label"], ""),
            "uid": np.where(unit, -1, table["uid"]),
        }
    )


def _numbers(lines: pd.DataFrame) -> Ints:
    """A number for each line, per VMA; -1 for none."""
    numbers = lines.groupby([*KEYS, "uid"], sort=False).ngroup().fillna(-1)
    return np.asarray(numbers, np.int64)


def _with_single_vmas(
    snapshot: Snapshot, everything: Prediction, table: pd.DataFrame, whole: pd.DataFrame
) -> pd.DataFrame:
    """``whole`` with one VMA in the place of a service or program, where that saves much."""
    single = _lines(table, ["vma"])
    single[whole["means"].isin(["vm", "vma"]) | whole["means"].isna()] = None
    numbers, losses, scans = [], [], []
    for lines in (single, whole):
        line = _numbers(lines)
        count = int(line.max(initial=-1)) + 1
        found = patterns(snapshot, everything, line)
        numbers.append(line)
        losses.append(Peeling(found, max(count, 1)).loss_pages)
        scans.append(visited_pages(snapshot, everything, line, count))
    pairs = pd.DataFrame({"part": numbers[0], "line": numbers[1]})
    pairs = pairs[pairs["part"] >= 0].drop_duplicates()
    part, line = pairs["part"].to_numpy(), pairs["line"].to_numpy()
    saves_much = losses[0][part] >= SAVES_MUCH * losses[1][line]
    scans_little = scans[0][part] <= SCANS_LITTLE * scans[1][line]
    chosen = pairs[saves_much & scans_little & (losses[1][line] > 0)].drop_duplicates("line")
    replaced = np.isin(numbers[1], chosen["line"])
    taken = np.isin(numbers[0], chosen["part"])
    result = whole.copy()
    result[replaced] = None
    result[taken] = single[taken]
    return result
