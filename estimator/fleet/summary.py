"""The answer for a fleet, from the rows of its hosts.

One row per host is in memory here, some 1 KB each; what there is per service is added up part by
part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.errors import CannotAnswerError
from estimator.fleet.families import fleet_frontier
from estimator.fleet.kinds import Roles
from estimator.fleet.one_host import WRITTEN_PERCENT
from estimator.fleet.results import FAMILIES, SERVICES, Results
from estimator.ksm.policy import Policy

QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9}
_ODD_DEVIATIONS, _ODD_SHARE = 4.0, 0.05
_LEAST_KIND = 5
_TO_SIGMA = 1.4826
"""Of the median absolute deviation, where values are normally distributed."""

DUPLICATE = "twice: "
_EXAMPLES = 3
_WHICH = re.compile(r"( than| as|, the other is) \S.*$")
"""In a problem of a duplicate: the other one."""
_DIRECTORIES = re.compile(r"\S*/(?=[^/\s])")


@dataclass(frozen=True)
class Summary:
    """What KSM would do on a fleet.

    ``policy``: as asked. ``hosts``: one row per host that counts: the columns of ``results.HOSTS``,
    role, and share (net of anonymous memory; NaN without any). ``left_out``: place, host, problem.
    ``services``: service, hosts, processes, scanned_bytes, records_bytes, saved_bytes, net_bytes,
    most net first. ``roles``: role, hosts, anonymous_bytes, net_bytes, share, and p10, median, p90
    of the shares. ``spread``: by what (net_bytes, share, cores), its p10, median, p90. ``odd``:
    hosts whose share is far from the median of their role: host, place, role, share, median.
    ``frontier``: see ``families.fleet_frontier``, with cores_least, cores_most, net_bytes.
    ``overcommit``: percent, of all merged pages written at once on every host, needed_bytes of all,
    and needed_p50_bytes, needed_max_bytes of a host. ``written_per_minute``: percent of the merged
    pages of the hosts where that was measured; None: nowhere; ``measured_hosts``: how many.
    """

    policy: Policy
    hosts: pd.DataFrame
    left_out: pd.DataFrame
    services: pd.DataFrame
    roles: pd.DataFrame
    spread: pd.DataFrame
    odd: pd.DataFrame
    frontier: pd.DataFrame
    overcommit: pd.DataFrame
    written_per_minute: float | None
    measured_hosts: int

    @property
    def failed(self) -> int:
        """How many snapshots are not counted, though nothing else stands for their host."""
        return int((~self.left_out["problem"].str.startswith(DUPLICATE)).sum())

    @property
    def hosts_share(self) -> float:
        """Hosts counted, of those whose snapshots were found."""
        return len(self.hosts) / max(len(self.hosts) + self.failed, 1)

    @property
    def read_share(self) -> float | None:
        """Candidate pages that were read, of all on the hosts counted; None: there are none."""
        pages = self.total("candidate_pages")
        return self.total("read_pages") / pages if pages else None

    def total(self, column: str) -> int:
        """The sum of a column of ``hosts``."""
        return int(self.hosts[column].sum())

    def cores(self, when: str) -> tuple[float, float]:
        """CPU cores that ksmd takes on all hosts, least and most; ``when``: first or rest."""
        names = (f"{when}_cores_least", f"{when}_cores_most")
        least, most = (float(self.hosts[name].sum()) for name in names)
        return least, most


def summarise(results: Results, policy: Policy, roles: Roles, places: list[str]) -> Summary:
    """All that is said of the fleet, of the snapshots at ``places``.

    Raises CannotAnswerError where none of them can be counted, UsageError for a label that no host
    fits.
    """
    found = results.hosts()
    found = found[found["place"].isin(places)].reset_index(drop=True)
    _mark_duplicates(found)
    counts = found["problem"].isna()
    left_out = found.loc[~counts, ["place", "host", "problem"]].reset_index(drop=True)
    hosts = found[counts].reset_index(drop=True)
    if hosts.empty:
        why = left_out["problem"].value_counts().index[0] if len(left_out) else "none was found"
        raise CannotAnswerError(f"none of {len(places):,} snapshots can be counted: {why}")
    roles.require_all_used(found["host"].dropna())
    hosts["role"] = [roles.of(host) for host in hosts["host"]]
    anonymous = hosts["anonymous_bytes"].where(hosts["anonymous_bytes"] > 0)
    hosts["share"] = (hosts["net_bytes"] / anonymous).astype(np.float64)
    services, families = _added_up(results, hosts["key"])
    return Summary(
        policy=policy,
        hosts=hosts,
        left_out=left_out,
        services=services,
        roles=_by_role(hosts),
        spread=_spread(hosts),
        odd=_odd(hosts),
        frontier=_frontier(hosts, services, families),
        overcommit=_overcommit(hosts),
        **_measured_writes(hosts),
    )


def _mark_duplicates(found: pd.DataFrame) -> None:
    """Say of all but the newest snapshot of each system whose it is, as its ``problem``."""
    counted = found[found["problem"].isna()]
    newest = counted.sort_values("collected_seconds", kind="stable", na_position="first")[::-1]
    first: dict[tuple[str, ...], dict[Any, Any]] = {}
    twice: dict[Any, str] = {}
    told = newest[["place", "picture", "boot_id", "machine_id", "host"]].to_dict("records")
    for row, one in zip(newest.index, told, strict=True):
        keys: list[tuple[str, ...]] = [("picture", str(one["picture"]))]
        if one["boot_id"]:
            keys.append(("boot", one["boot_id"]))
        if one["host"]:  # cloned machines share a machine-id, under names of their own
            keys.append(("host", str(one["machine_id"]), one["host"]))
        same = next((key for key in keys if key in first), None)
        if same is None:
            first.update(dict.fromkeys(keys, one))
        else:
            twice[row] = DUPLICATE + _why_twice(one, first[same], same[0])
    found.loc[list(twice), "problem"] = list(twice.values())


def _why_twice(one: dict[Any, Any], other: dict[Any, Any], what: str) -> str:
    if what == "picture":
        return f"the same snapshot as {other['place']}"
    if one["host"] != other["host"]:
        return f"one system under two names, the other is {other['host']} at {other['place']}"
    return f"an older picture of the same host than {other['place']}"


def reasons(left_out: pd.DataFrame) -> pd.DataFrame:
    """Why the snapshots of ``Summary.left_out`` are not counted, most frequent first.

    Columns: reason (the whole problem where one snapshot has it, else what these have in common),
    snapshots (how many), examples (list of up to 3 places). Hosts that nothing stands for come
    before duplicates.
    """
    twice = left_out["problem"].str.startswith(DUPLICATE)
    bare = left_out["problem"].str.replace(_DIRECTORIES, "", regex=True)
    alike = bare.where(~twice, left_out["problem"].str.replace(_WHICH, "", regex=True))
    rows = []
    for (is_twice, reason), group in left_out.groupby([twice, alike], sort=False):
        told = group["problem"].iloc[0] if len(group) == 1 else reason
        rows.append((is_twice, told, len(group), group["place"].head(_EXAMPLES).tolist()))
    table = pd.DataFrame(rows, columns=["twice", "reason", "snapshots", "examples"])
    order = table.sort_values(["twice", "snapshots"], ascending=[True, False], kind="stable")
    return order.drop(columns="twice").reset_index(drop=True)


def _added_up(results: Results, hosts: pd.Series[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The services and the families of the hosts with these keys, added up part by part.

    Here and not on the workers: those of a cluster don't see this machine's files.
    """
    keys = pd.Index(hosts)
    sums = [name for name in SERVICES.names if name not in ("key", "host", "service")]
    by_service = [
        _chosen(part / "services.parquet", SERVICES, keys)
        .group_by("service", use_threads=False)
        .aggregate([*((name, "sum") for name in sums), ("key", "count")])
        .rename_columns(["service", *sums, "hosts"])
        for part in results.parts()
    ]
    by_family = [
        _chosen(part / "families.parquet", FAMILIES, keys)
        .group_by(["kept", "family"], use_threads=False)
        .aggregate([("bytes", "sum")])
        .rename_columns(["kept", "family", "bytes"])
        for part in results.parts()
    ]
    services = pa.concat_tables(by_service).to_pandas().groupby("service").sum()
    services = services.sort_values("net_bytes", ascending=False, kind="stable").reset_index()
    families = pa.concat_tables(by_family).to_pandas().groupby(["kept", "family"]).sum()
    return services, families.reset_index()


def _chosen(path: Path, schema: pa.Schema, keys: pd.Index[str]) -> pa.Table:
    """The rows of a part's table that are of the hosts ``keys``."""
    table = pq.read_table(path, schema=schema)
    return table.filter(keys.get_indexer(table["key"].to_pandas()) >= 0)


def _by_role(hosts: pd.DataFrame) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for role, group in hosts.assign(role=hosts["role"].fillna("(no role)")).groupby("role"):
        anonymous, net = int(group["anonymous_bytes"].sum()), int(group["net_bytes"].sum())
        share = net / anonymous if anonymous else np.nan
        rows.append((role, len(group), anonymous, net, share, *_quantiles(group["share"])))
    names = ["role", "hosts", "anonymous_bytes", "net_bytes", "share", *QUANTILES]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values("net_bytes", ascending=False, ignore_index=True)


def _quantiles(values: pd.Series[Any]) -> list[float]:
    known = values.dropna().to_numpy(np.float64)
    return [float(np.quantile(known, q)) if len(known) else np.nan for q in QUANTILES.values()]


def _spread(hosts: pd.DataFrame) -> pd.DataFrame:
    columns = ["net_bytes", "share", "first_cores_most", "rest_cores_most"]
    rows = [(name, *_quantiles(hosts[name])) for name in columns]
    return pd.DataFrame(rows, columns=["of", *QUANTILES])


def _odd(hosts: pd.DataFrame) -> pd.DataFrame:
    """Hosts more than 4 robust standard deviations and 5 points from the median of their role."""
    known = hosts[hosts["share"].notna()].assign(role=hosts["role"].fillna("(no role)"))
    by_role = known.groupby("role")["share"]
    median = by_role.transform("median")
    away = (known["share"] - median).abs()
    sigma = _TO_SIGMA * away.groupby(known["role"]).transform("median")
    enough = by_role.transform("size") >= _LEAST_KIND
    odd = enough & (away > _ODD_SHARE) & (away > _ODD_DEVIATIONS * sigma)
    table = known.assign(median=median, away=away)[odd]
    columns = ["host", "place", "role", "share", "median"]
    return table.sort_values("away", ascending=False, kind="stable")[columns].reset_index(drop=True)


def _frontier(hosts: pd.DataFrame, services: pd.DataFrame, families: pd.DataFrame) -> pd.DataFrame:
    table = services.set_index("service")
    steps = fleet_frontier(families, table["scanned_pages"])
    records = table["records_bytes"].reindex(steps["service"]).cumsum().to_numpy()
    steps["net_bytes"] = steps["saved_bytes"] - records
    steps["gain_net_bytes"] = np.diff(steps["net_bytes"], prepend=0)
    steps["hosts"] = table["hosts"].reindex(steps["service"]).to_numpy()
    pages = max(int(hosts["scanned_pages"].sum()), 1)
    for end in ("least", "most"):
        cores = float(hosts[f"first_cores_{end}"].sum())
        steps[f"cores_{end}"] = steps["scanned_pages"] / pages * cores
    return steps


def _overcommit(hosts: pd.DataFrame) -> pd.DataFrame:
    needed: npt.NDArray[np.int64] = np.stack(hosts["needed_bytes"].to_list())
    return pd.DataFrame(
        {
            "percent": WRITTEN_PERCENT,
            "needed_bytes": needed.sum(axis=0),
            "needed_p50_bytes": np.median(needed, axis=0).round().astype(np.int64),
            "needed_max_bytes": needed.max(axis=0),
        }
    )


def _measured_writes(hosts: pd.DataFrame) -> dict[str, Any]:
    known = hosts[hosts["written_per_second"].notna() & (hosts["merged_pages"] > 0)]
    if known.empty:
        return {"written_per_minute": None, "measured_hosts": 0}
    written = 60 * float(known["written_per_second"].sum())
    percent = 100 * min(1.0, written / float(known["merged_pages"].sum()))
    return {"written_per_minute": percent, "measured_hosts": len(known)}


def write_services(results: Results, summary: Summary, path: Path) -> int:
    """One row per host and service that counts, to the new file ``path``: how many there are.

    The columns of ``results.SERVICES`` but key, and role, anonymous_bytes of the host, release,
    collected_at. Part by part: nobody has to hold them all.
    """
    about = ["role", "release", "collected_at"]
    added = pa.schema([*((name, pa.string()) for name in about), ("anonymous_bytes", pa.int64())])
    owners = summary.hosts.set_index("key")[added.names]
    rows = 0
    writer = None
    try:
        for part in results.parts():
            table = pq.read_table(part / "services.parquet", schema=SERVICES)
            places = owners.index.get_indexer(table["key"].to_pandas())
            table = table.filter(places >= 0).drop_columns("key")
            mine = owners.iloc[places[places >= 0]]
            its = pa.Table.from_pandas(mine, added, preserve_index=False)
            for name in added.names:
                table = table.append_column(added.field(name), its[name])
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(table)
    finally:
        if writer:
            writer.close()
    return rows
