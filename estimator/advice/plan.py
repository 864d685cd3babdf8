"""The plan: the smallest set worth opting in, as a person would write it down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.attribution import contributions
from estimator.advice.borders import domain_signature
from estimator.advice.frontier import Patterns, Peeling, frontier, patterns, smallest_share
from estimator.errors import UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.names import unit_of, vma_labels
from estimator.snapshot.snapshot import Snapshot

Domain = Literal["uid", "cgroup"]

SCANNED_IN_VAIN = 0.5
"""A whole service or program is opted in unless more than this part of its pages is no use."""

_PIECE = ["cgroup", "comm", "name"]


@dataclass(frozen=True)
class Plan:
    """What to opt in, what it costs and what it brings.

    ``lines``: one row per thing to do, biggest saving first: means ("unit": MemoryKSM= of a
    systemd service, "program": prctl, "vma": madvise), cgroup, comm (empty for a unit), name (label
    of the VMAs, for "vma"), processes, scanned_pages, merged_pages (of these, on stable nodes or
    the zero page), saved_pages (f64, its part of the saving), profit_bytes (net: saved less
    its part of KSM's records),
    loss_pages (saved frames lost without this line alone), opted_in (bool: all of its VMAs that
    count are VM_MERGEABLE already).

    ``frontier``: piece by piece, best first: cgroup, comm, name, and cumulated scanned_pages and
    saved_pages; ``chosen``: how many of them the plan was written from. ``everything`` and
    ``prediction``: the model's answers for all candidates and for exactly this plan. ``within``:
    the border that counted sharing may not cross; ``within_pages``: frames that the plan saves
    without crossing it.
    """

    share: float
    within: Domain | None
    lines: pd.DataFrame
    frontier: pd.DataFrame
    chosen: int
    everything: Prediction
    prediction: Prediction
    within_pages: int


def make_plan(
    snapshot: Snapshot,
    policy: Policy | None = None,
    share: float = 0.9,
    within: Domain | None = None,
) -> Plan:
    """The smallest set found that reaches ``share`` of what ``policy`` would save.

    ``within`` counts only sharing inside one uid or one cgroup; the kernel itself merges across.
    The set is greedy, not proven smallest; its numbers come from a prediction of exactly this set.
    Raises UsageError if ``share`` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share:g} is not between 0 and 1")
    everything = predict(snapshot, policy or Policy())
    pieces, piece_of_vma = _pieces(snapshot, everything)
    steps = frontier(
        patterns(snapshot, everything, piece_of_vma, _domains(snapshot, everything, within)),
        _visited(snapshot, everything, piece_of_vma, len(pieces)),
    )
    chosen = smallest_share(steps, share)
    lines, line_of_vma = _write_lines(snapshot, everything, pieces, piece_of_vma, chosen)
    prediction = predict(restrict(snapshot, line_of_vma >= 0), everything.policy)
    found = patterns(snapshot, prediction, line_of_vma, _domains(snapshot, prediction, within))
    return Plan(
        share=share,
        within=within,
        lines=_price(snapshot, prediction, lines, line_of_vma, found),
        frontier=steps.join(pieces, on="piece").drop(columns="piece"),
        chosen=len(chosen),
        everything=everything,
        prediction=prediction,
        within_pages=Peeling(found, max(len(lines), 1)).saved_pages,
    )


def restrict(snapshot: Snapshot, vmas: npt.NDArray[np.bool_]) -> Snapshot:
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


def systemd_service(cgroup: str) -> str | None:
    """The systemd service that owns ``cgroup``, if a drop-in of it can say MemoryKSM=."""
    unit = unit_of(cgroup)
    return unit if unit.endswith(".service") else None


def _domains(
    snapshot: Snapshot, prediction: Prediction, within: Domain | None
) -> npt.NDArray[np.uint64] | None:
    if within is None:
        return None
    domain_of_mm = pd.factorize(snapshot.processes[within])[0]
    return domain_signature(snapshot, prediction, domain_of_mm)


def _pieces(
    snapshot: Snapshot, prediction: Prediction
) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """The pieces to choose from (cgroup, comm, name of the VMA), and the piece of every VMA."""
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
    return pieces, piece_of_vma


def _visited(
    snapshot: Snapshot, prediction: Prediction, group_of_vma: npt.NDArray[np.int64], groups: int
) -> npt.NDArray[np.int64]:
    """Pages that ksmd visits, per group of VMAs."""
    candidates = prediction.outcome != Outcome.NOT_CANDIDATE
    group = group_of_vma[snapshot.mappings["vma_id"].to_numpy()[candidates]]
    return np.bincount(group[group >= 0], minlength=groups)


def _write_lines(
    snapshot: Snapshot,
    everything: Prediction,
    pieces: pd.DataFrame,
    piece_of_vma: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """The chosen pieces as lines (means, cgroup, comm, name), and the line of every VMA.

    A whole unit or program stands for its pieces where most of what ksmd would scan in it is
    chosen. What a service inherits through exec leaves out the stack (ksm-model §1.1).
    """
    visited = _visited(snapshot, everything, piece_of_vma, len(pieces))
    has_prctl = bool(snapshot.info["features"].get("merge_any_prctl", True))
    is_chosen = np.isin(np.arange(len(pieces)), chosen)
    table = pieces.assign(visited=visited, wanted=np.where(is_chosen, visited, 0))
    useful = {
        level: sums["wanted"] >= (1 - SCANNED_IN_VAIN) * sums["visited"]
        for level, sums in (
            ("unit", table.groupby("cgroup")[["visited", "wanted"]].transform("sum")),
            ("program", table.groupby(["cgroup", "comm"])[["visited", "wanted"]].transform("sum")),
        )
    }
    services = [systemd_service(cgroup) is not None for cgroup in table["cgroup"]]
    in_service = np.array(services, np.bool_)
    unit = has_prctl & in_service & useful["unit"]
    program = has_prctl & useful["program"] & ~unit
    table["means"] = np.select([unit, program], ["unit", "program"], "vma")
    table.loc[~is_chosen & (table["means"] == "vma"), "means"] = None
    table.loc[(table["means"] == "unit") & (table["name"] == "[stack]"), "means"] = None
    table.loc[table["means"] == "unit", ["comm", "name"]] = ""
    table.loc[table["means"] == "program", "name"] = ""
    keys = ["means", "cgroup", "comm", "name"]
    line_of_piece = table.groupby(keys, sort=False).ngroup().fillna(-1).to_numpy(np.int64)
    lines = table.loc[table["means"].notna(), keys].drop_duplicates().reset_index(drop=True)
    line_of_vma = np.append(line_of_piece, -1)[piece_of_vma]
    return lines, line_of_vma


def _price(
    snapshot: Snapshot,
    prediction: Prediction,
    lines: pd.DataFrame,
    line_of_vma: npt.NDArray[np.int64],
    found: Patterns,
) -> pd.DataFrame:
    """Cost and gain of every line, under the plan as a whole."""
    table = contributions(snapshot, prediction)
    table["line"] = line_of_vma[table["vma_id"].to_numpy()]
    table["opted_in"] = snapshot.vmas["mergeable"].to_numpy()[table["vma_id"].to_numpy()]
    counts = table[table["ksm_rmap_items"] > 0].groupby("line")["opted_in"].all()
    grouped = table.groupby("line")
    priced = lines.assign(
        processes=grouped["mm_id"].nunique(),
        scanned_pages=_visited(snapshot, prediction, line_of_vma, len(lines)),
        merged_pages=grouped["ksm_merging_pages"].sum() + grouped["ksm_zero_pages"].sum(),
        saved_pages=grouped["saved_pages"].sum(),
        profit_bytes=grouped["net_bytes"].sum(),
        loss_pages=Peeling(found, max(len(lines), 1)).loss_pages[: len(lines)],
        opted_in=counts.reindex(lines.index, fill_value=False),
    )
    return priced.sort_values("saved_pages", ascending=False, ignore_index=True)
