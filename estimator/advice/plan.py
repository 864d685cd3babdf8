"""The plan: the fewest lines worth doing that reach the share asked for, as a person would act.

What a line is: ``opt_in``. What takes part already is in every plan and needs none. A line has to
bring ``WORTH_BYTES`` net, or ``WORTH_SHARE`` of what all lines would save where that is less. Of
each number of lines the best set is known (``smallest``); the plan is the first of them that saves
the share, by the model's own answer for exactly that set and what is on already.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd

from estimator.advice.attribution import contributions, page_bytes, scanned_pages
from estimator.advice.borders import domain_signature
from estimator.advice.elsewhere import on_elsewhere
from estimator.advice.frontier import Peeling, frontier
from estimator.advice.host import Host, host_of, machine_names
from estimator.advice.opt_in import Means, OptIns, opt_ins, visited_pages
from estimator.advice.patterns import Patterns, patterns
from estimator.advice.program_file import program_file
from estimator.advice.smallest import Best, best_sets
from estimator.advice.verdict import Savings, savings
from estimator.arrays import Ints, Mask, Narrow
from estimator.errors import UsageError
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.names import vma_labels
from estimator.snapshot.snapshot import Snapshot

Domain = Literal["uid", "cgroup"]

WORTH_BYTES, WORTH_SHARE = 1 << 20, 0.01

_PIECE = ["cgroup", "comm", "name"]


@dataclass(frozen=True)
class Plan:
    """What to opt in, what it costs and what it brings.

    ``lines``: one row per thing to do, biggest saving first, after them what is on already
    (opted_in): means ("unit": MemoryKSM= of a systemd service, "program": prctl by what starts it,
    "vm": configuration of a virtual machine, "vma": madvise, "on": nothing), cgroup, comm (empty
    for a unit, the name of a vm), name (label of the VMAs, for "vma"), uid (-1 for all), pids
    (list), program (file of the oldest process, see ``program_file``), by_libvirt (who started it),
    processes, vmas, mapped_bytes (of these VMAs), address (u64, of the first), scanned_pages,
    merged_pages (of these, on stable nodes or the zero page), saved_pages (f64, its part of the
    saving), profit_bytes (net: saved less its part of KSM's records), loss_pages (saved frames lost
    without this line alone), opted_in.

    ``only``: by which means, empty where none were named. ``worth_bytes``: less than this, net, no
    line brings. ``possible``: how many lines there were to choose from. ``share_reached``: False
    where what is worth a line saves less than the share. ``reachable``: the model's answer for all
    lines and what is on; ``everything``: for all candidates, with its ``savings``; ``prediction``:
    for exactly this plan, which visits ``scanned_pages`` in a full scan.
    ``frontier``: groups of VMAs, best first: cgroup, comm, name, and cumulated scanned_pages and
    saved_pages. ``within``: the border that counted sharing may not cross; ``within_pages``: frames
    that the plan saves without crossing it. ``elsewhere``: what is on and was not selected, see
    ``on_elsewhere``; it is in no number of the plan. ``running``: KSM is on.
    """

    share: float
    within: Domain | None
    only: tuple[Means, ...]
    lines: pd.DataFrame
    worth_bytes: int
    possible: int
    share_reached: bool
    frontier: pd.DataFrame
    everything: Prediction
    savings: Savings
    reachable: Prediction
    prediction: Prediction
    scanned_pages: int
    within_pages: int
    elsewhere: pd.DataFrame
    host: Host
    running: bool

    @property
    def to_do(self) -> pd.DataFrame:
        """Those of ``lines`` that are not on yet."""
        return self.lines[~self.lines["opted_in"]]


def make_plan(
    snapshot: Snapshot,
    policy: Policy | None = None,
    share: float = 0.9,
    within: Domain | None = None,
    only: Collection[Means] = (),
    *,
    room: Workroom | None = None,
    keep_rows: bool = True,
) -> Plan:
    """The fewest lines found that save ``share`` of what all lines by the means ``only`` would.

    ``only``: empty for services, programs and virtual machines. ``within`` counts only sharing
    inside one uid or one cgroup; the kernel itself merges across. The set is the smallest where no
    more than ``smallest.EXACT`` lines are worth doing, greedy where there are more. Its numbers
    come from a prediction of exactly this set. ``room``: as for ``predict``. ``keep_rows``: False
    where nobody asks for those of ``everything`` and ``reachable``: they are given back. Raises
    UsageError if ``share`` is not in (0, 1] or the kernel lacks the means.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share:g} is not between 0 and 1")
    everything = predict(snapshot, policy or Policy(), room=room)
    ways = opt_ins(snapshot, everything, only, apart_by_uid=within == "uid")
    saved, steps = savings(snapshot, everything), _frontier(snapshot, everything, within)
    answers = _Answers(snapshot, everything, ways, room)
    answers.kept += [everything] if keep_rows else []
    reachable = answers.of(np.arange(len(ways.lines)))
    answers.kept += [reachable] if keep_rows else []
    found = _patterns(snapshot, reachable, ways.line_of_vma, within)
    size = page_bytes(snapshot)
    visited = visited_pages(snapshot, reachable, ways.line_of_vma, len(ways.lines))
    cost_pages = visited * snapshot.info["sizes"]["ksm_rmap_item"] / size
    all_pages = Peeling(found, max(len(ways.lines), 1)).saved_pages - cost_pages.sum()
    worth_bytes = max(1, int(min(WORTH_BYTES, WORTH_SHARE * all_pages * size)))
    sets = best_sets(found, cost_pages, worth_bytes / size)
    del found
    reachable.forget()
    chosen, prediction, reached = _first_that_saves(
        answers,
        sets,
        share,
        all_pages,
        most=reachable.physical["net_bytes_saved"],
        exact=within is None,
    )
    lines, line_of_vma = _chosen_lines(snapshot, ways, chosen)
    found = _patterns(snapshot, prediction, line_of_vma, within)
    return Plan(
        share=share,
        within=within,
        only=tuple(only),
        lines=_price(snapshot, prediction, lines, line_of_vma, found),
        worth_bytes=worth_bytes,
        possible=len(ways.lines),
        share_reached=reached,
        frontier=steps,
        everything=everything,
        savings=saved,
        reachable=reachable,
        prediction=prediction,
        scanned_pages=scanned_pages(prediction),
        within_pages=Peeling(found, max(len(lines), 1)).saved_pages,
        elsewhere=on_elsewhere(snapshot, everything, room),
        host=host_of(snapshot),
        running=snapshot.info["ksm"].get("run") == 1,
    )


def restrict(snapshot: Snapshot, vmas: Mask) -> Snapshot:
    """``snapshot`` as if only ``vmas`` (bool per row of ``snapshot.vmas``) could take part."""
    table = snapshot.vmas
    return replace(
        snapshot,
        vmas=table.assign(
            mergeable=table["mergeable"].to_numpy() & vmas,
            compatible=table["compatible"].to_numpy() & vmas,
            excluded_by=table["excluded_by"].where(
                table["excluded_by"].notna() | vmas, "not in the plan"
            ),
        ),
    )


class _Answers:
    """The model's answers for some lines and what is on.

    Rows have the latest, ``best`` and those in ``kept``.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        everything: Prediction,
        ways: OptIns,
        room: Workroom | None,
    ) -> None:
        self._snapshot, self._ways, self._room = snapshot, ways, room
        self._policy = everything.policy
        is_open = everything.vmas["excluded_by"].isna()
        self._open = everything.vmas.loc[is_open, "vma_id"].to_numpy()
        self._held = [(np.ones(len(self._open), np.bool_), everything)]
        self.best: Prediction | None = None
        self.kept: list[Prediction] = []

    def of(self, lines: Ints) -> Prediction:
        """The answer for these lines; what another one holds may be given back."""
        takes_part = self._takes_part(lines)
        for known, prediction in self._held:
            if np.array_equal(known, takes_part):
                return prediction
        staying = [id(each) for each in (self.best, *self.kept)]
        others = [each for each in self._held if id(each[1]) not in staying]
        self._held = [each for each in self._held if id(each[1]) in staying]
        for _, prediction in others:
            prediction.give_back()
        vmas = np.zeros(len(self._snapshot.vmas), np.bool_)
        vmas[self._open] = takes_part
        found = predict(restrict(self._snapshot, vmas), self._policy, room=self._room)
        self._held.append((takes_part, found))
        return found

    def _takes_part(self, lines: Ints) -> Mask:
        """Which of the VMAs that are open to merging do."""
        line = self._ways.line_of_vma[self._open]
        takes_part: Mask = self._ways.on[self._open] | np.isin(line, lines)
        return takes_part


def _first_that_saves(
    answers: _Answers,
    sets: list[Best],
    share: float,
    all_pages: float,
    *,
    most: int,
    exact: bool,
) -> tuple[Ints, Prediction, bool]:
    """The first of ``sets`` that saves ``share``, the model's answer for it, and whether it does.

    ``exact``: by the model, from the first on that should suffice. Where frames are shared, pinned
    or in huge pages, what a set saves is only then known; larger sets are taken to save more.
    """
    whole = all_pages if all_pages > 0 else sets[-1].net_pages
    last = len(sets) - 1
    first = next((n for n, one in enumerate(sets) if one.net_pages >= share * whole), len(sets))
    goal = min(share * most, most)  # below 0, where what is on costs more than it frees

    @cache
    def saves(number: int) -> bool:
        found = answers.of(sets[number].lines)
        enough = found.physical["net_bytes_saved"] >= goal
        if enough:
            answers.best = found  # so far: those that are asked later are smaller
        return enough

    number = min(first, last)
    if exact and not saves(number):
        number = bisect_left(range(last), True, lo=number + 1, key=saves) if number < last else last
    reached = saves(number) if exact else first <= last
    return sets[number].lines, answers.of(sets[number].lines), reached


def _patterns(
    snapshot: Snapshot, prediction: Prediction, line_of_vma: Ints, within: Domain | None
) -> Patterns:
    return patterns(snapshot, prediction, line_of_vma, _domains(snapshot, prediction, within))


def _domains(snapshot: Snapshot, prediction: Prediction, within: Domain | None) -> Narrow | None:
    if within is None:
        return None
    domain_of_mm = pd.factorize(snapshot.processes[within])[0]
    return domain_signature(snapshot, prediction, domain_of_mm)


def _frontier(snapshot: Snapshot, prediction: Prediction, within: Domain | None) -> pd.DataFrame:
    """The groups of VMAs of one cgroup, program and name, in the order in which they pay."""
    owners = snapshot.processes.iloc[snapshot.vmas["mm_id"].to_numpy()]
    keys = pd.DataFrame(
        {
            "cgroup": owners["cgroup"].to_numpy(),
            "comm": owners["comm"].to_numpy(),
            "name": vma_labels(snapshot.vmas),
        }
    )
    ours = prediction.vmas.loc[prediction.vmas["excluded_by"].isna(), "vma_id"].to_numpy()
    piece_of_vma = np.full(len(keys), -1, np.int64)
    piece_of_vma[ours] = keys.iloc[ours].groupby(_PIECE, sort=False).ngroup().to_numpy()
    pieces = keys.iloc[ours].drop_duplicates().reset_index(drop=True)
    steps = frontier(
        _patterns(snapshot, prediction, piece_of_vma, within),
        visited_pages(snapshot, prediction, piece_of_vma, len(pieces)),
    )
    return steps.join(pieces, on="piece").drop(columns="piece")


def _chosen_lines(snapshot: Snapshot, ways: OptIns, chosen: Ints) -> tuple[pd.DataFrame, Ints]:
    """The lines of the plan, after them what is on, by cgroup and program; and that of each VMA."""
    number = np.full(len(ways.lines) + 1, -1, np.int64)
    number[chosen] = np.arange(len(chosen))
    line_of_vma = number[ways.line_of_vma]
    processes, mm = snapshot.processes, snapshot.vmas["mm_id"].to_numpy()[ways.on]
    machine = machine_names(processes)
    names = np.where(machine != "", machine, processes["comm"])
    owners = pd.DataFrame({"cgroup": processes["cgroup"].to_numpy()[mm], "comm": names[mm]})
    line_of_vma[ways.on] = len(chosen) + owners.groupby(["cgroup", "comm"], sort=False).ngroup()
    on = owners.drop_duplicates().assign(means="on", name="", uid=-1)
    lines = pd.concat([ways.lines.iloc[chosen], on], ignore_index=True)
    return lines, line_of_vma


def _price(
    snapshot: Snapshot,
    prediction: Prediction,
    lines: pd.DataFrame,
    line_of_vma: Ints,
    found: Patterns,
) -> pd.DataFrame:
    """Cost and gain of every line, under the plan as a whole, and whom it is about."""
    table = contributions(snapshot, prediction)
    table["line"] = line_of_vma[table["vma_id"].to_numpy()]
    table["mapped_bytes"] = (table["end"] - table["start"]).to_numpy()
    grouped = table.groupby("line")
    pids = {line: sorted(set(rows["pid"].tolist())) for line, rows in grouped}
    oldest = [snapshot.processes.iloc[int(rows["mm_id"].iloc[0])] for _, rows in grouped]
    names = snapshot.vmas.groupby("mm_id")["name"]
    files = [program_file(one, names.get_group(one["mm_id"])) for one in oldest]
    priced = lines.assign(
        pids=pd.Series(pids, dtype=object),
        program=pd.Series(files, [*pids], dtype=object),
        by_libvirt=pd.Series(["guest=" in str(one["cmdline"]) for one in oldest], [*pids]),
        processes=grouped["mm_id"].nunique(),
        vmas=grouped["vma_id"].size(),
        mapped_bytes=grouped["mapped_bytes"].sum(),
        address=grouped["start"].first(),
        scanned_pages=visited_pages(snapshot, prediction, line_of_vma, len(lines)),
        merged_pages=grouped["ksm_merging_pages"].sum() + grouped["ksm_zero_pages"].sum(),
        saved_pages=grouped["saved_pages"].sum(),
        profit_bytes=grouped["net_bytes"].sum(),
        loss_pages=Peeling(found, max(len(lines), 1)).loss_pages[: len(lines)],
        opted_in=lines["means"] == "on",
    )
    counts = priced[~priced["opted_in"] | (priced["scanned_pages"] > 0)]
    order = ["opted_in", "saved_pages"]
    return counts.sort_values(order, ascending=[True, False], kind="stable", ignore_index=True)
