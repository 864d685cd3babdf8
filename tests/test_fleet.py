"""Many snapshots: what is counted, what is not and why, and that nothing gets lost on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from estimator.advice.plan import restrict
from estimator.errors import CannotAnswerError, TargetError, UsageError
from estimator.fleet import run, storage
from estimator.fleet.families import fleet_frontier
from estimator.fleet.fleet_sections import fleet_json
from estimator.fleet.kinds import Roles, kind_of
from estimator.fleet.one_host import Question, study
from estimator.fleet.results import Results
from estimator.fleet.run import cluster, read_fleet
from estimator.fleet.storage import find_places, local_copy
from estimator.fleet.summary import Summary, reasons, summarise
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.fleets import host, write_fleet
from tests.schemas import check
from tests.systems import fork_server

QUESTION = Question(Policy(), "unit", 150.0)
HOSTS = 6


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as found,
    ):
        yield found


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return write_fleet(tmp_path / "fleet", HOSTS)


def read(
    client: Client, directory: Path, output: Path, question: Question = QUESTION, **given: Any
) -> tuple[Summary, Results]:
    places = find_places([str(directory)], 10)
    results = Results(output, question)
    read_fleet(client, places, question, results, given.get("told", lambda *_: None), 10)
    return summarise(results, question.policy, given.get("roles", Roles()), places), results


def problems(summary: Summary) -> dict[str, str]:
    names = summary.left_out["place"].map(lambda place: Path(place).name)
    return dict(zip(names, summary.left_out["problem"], strict=True))


def test_totals_are_the_sums_of_the_predictions(
    client: Client, fleet: Path, tmp_path: Path
) -> None:
    summary, _ = read(client, fleet, tmp_path / "out.fleet")
    alone = [predict(host(number)) for number in range(HOSTS)]
    for column, name in (("saved_bytes", "bytes_saved"), ("net_bytes", "net_bytes_saved")):
        assert summary.total(column) == sum(one.physical[name] for one in alone)
        assert summary.services[column].sum() == pytest.approx(summary.total(column))
    assert summary.total("scanned_pages") == sum(one.counters["ksm_rmap_items"] for one in alone)
    assert set(summary.services["service"]) == {"web@*.service", "api.service", "job.service"}
    assert set(summary.services["hosts"]) == {HOSTS}
    assert (summary.hosts_share, summary.read_share, len(summary.left_out)) == (1, 1, 0)


def test_the_frontier_knows_who_saves_only_together(
    client: Client, fleet: Path, tmp_path: Path
) -> None:
    steps = read(client, fleet, tmp_path / "out.fleet")[0].frontier
    repeated, shared = 9 * 4096 * HOSTS, sum(range(10, 10 + HOSTS)) * 4096
    assert set(steps["service"][:2]) == {"web@*.service", "api.service"}
    assert steps["gain_bytes"].tolist() == [repeated, repeated + shared, 0]
    assert steps["net_bytes"].iloc[0] == repeated - steps["scanned_pages"].iloc[0] * 64


@pytest.mark.parametrize("only", [["app.service"], ["app.service", "batch.service"]])
def test_a_set_of_services_saves_what_the_model_says(only: list[str]) -> None:
    snapshot = fork_server(workers=1, shared=60)  # no frame in more than two processes
    rows = study(snapshot, QUESTION)
    services = rows.services.set_index("service")["scanned_pages"]
    chosen = rows.families[
        [all({*sets} <= {*only} for sets in json.loads(f)) for f in rows.families["family"]]
    ]
    # families that reach beyond the chosen ones count by the sets that lie within
    for family, size in rows.families.loc[rows.families["kept"], ["family", "bytes"]].itertuples(
        index=False
    ):
        inside = [sets for sets in json.loads(family) if {*sets} <= {*only}]
        if 0 < len(inside) < len(json.loads(family)):
            row = pd.DataFrame([(True, json.dumps(inside), size)], columns=chosen.columns[:3])
            chosen = pd.concat([chosen, row], ignore_index=True)
    steps = fleet_frontier(chosen, services[only])
    units = snapshot.processes["cgroup"].str.rpartition("/")[2]
    vmas = units.isin(only).to_numpy()[snapshot.vmas["mm_id"].to_numpy()]
    exact = predict(restrict(snapshot, vmas)).physical["bytes_saved"]
    assert steps["saved_bytes"].iloc[-1] == exact


def test_what_must_be_free_ends_at_what_was_freed() -> None:
    for policy in (Policy(), Policy(use_zero_pages=True)):
        row = study(fork_server(), Question(policy, "unit", 150.0)).host
        needed = row["needed_bytes"]
        assert needed == sorted(needed)
        assert needed[-1] >= row["saved_bytes"]
        assert 0 < needed[0] <= 0.011 * (row["merged_pages"] * 4096)


def test_what_can_not_be_counted_is_named(client: Client, fleet: Path, tmp_path: Path) -> None:
    shutil.copytree(fleet / "h1.ksm", fleet / "twin.ksm")
    shutil.copytree(fleet / "h2.ksm", fleet / "half.ksm")
    (fleet / "half.ksm" / "frames.parquet").unlink()
    (fleet / "h3.ksm" / "mappings.parquet").write_bytes(b"PAR1 nothing")
    (fleet / "empty.ksm").mkdir()
    (fleet / "foreign.ksm.tar").write_bytes(b"no archive")
    info = json.loads((fleet / "h4.ksm" / "snapshot.json").read_text())
    (fleet / "h4.ksm" / "snapshot.json").write_text(json.dumps(info | {"format_version": 9}))
    write_snapshot(host(5, collected_at="2026-02-01T00:00:00+00:00"), fleet / "later.ksm")
    write_snapshot(host(9, host="alias", boot_id="boot-0"), fleet / "renamed.ksm")
    shutil.copytree(Path(__file__).parent / "data" / "format_1.ksm", fleet / "old.ksm")
    summary, _ = read(client, fleet, tmp_path / "out.fleet")
    told = problems(summary)
    assert "no snapshot" in told["empty.ksm"]
    assert "frames.parquet" in told["half.ksm"]
    assert "mappings.parquet" in told["h3.ksm"]
    assert "format 9" in told["h4.ksm"]
    assert "foreign.ksm.tar" in told
    assert told["h5.ksm"] == f"twice: an older picture of the same host than {fleet / 'later.ksm'}"
    pair = {"h1.ksm", "twin.ksm"} & set(told)
    assert [told[name][:28] for name in pair] == ["twice: the same snapshot as "]
    assert any("under two names" in problem for problem in told.values())
    assert len(summary.hosts) == 5  # 0 or its alias, 1, 2, 5, and the old one
    assert summary.failed == 5
    assert summary.hosts_share == 0.5


def test_many_of_one_reason_are_one_line() -> None:
    older = "twice: an older picture of the same host than /b/h{}.ksm"
    told = [(f"/a/h{n}.ksm", older.format(n)) for n in range(9)]
    told += [(f"/a/bad{n}.ksm", f"/tmp/x{n}/frames.parquet can't be read") for n in range(5)]
    told += [("/a/new.ksm", "has snapshot format 9 in /a/new.ksm/snapshot.json")]
    table = reasons(pd.DataFrame(told, columns=["place", "problem"]).assign(host=None))
    assert table["reason"].tolist() == [
        "frames.parquet can't be read",
        "has snapshot format 9 in /a/new.ksm/snapshot.json",
        "twice: an older picture of the same host",
    ]
    assert table["snapshots"].tolist() == [5, 1, 9]
    assert table["examples"].iloc[2] == ["/a/h0.ksm", "/a/h1.ksm", "/a/h2.ksm"]
    assert reasons(pd.DataFrame(columns=["place", "host", "problem"], dtype=str)).empty


def test_a_run_goes_on_where_it_was(client: Client, fleet: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(client, fleet, tmp_path / "out.fleet", told=stop)
    before = Results(tmp_path / "out.fleet", QUESTION).hosts()
    assert 0 < len(before) < HOSTS
    newer = host(4, collected_at="2026-03-01T00:00:00+00:00")
    write_snapshot(newer, fleet / "h4.ksm", replace=True)
    seen: list[int] = []
    summary, results = read(
        client, fleet, tmp_path / "out.fleet", told=lambda done, total: seen.append(done)
    )
    assert len(seen) <= HOSTS - len(before) + 2  # the others are not read again
    whole, _ = read(client, fleet, tmp_path / "whole.fleet")
    assert summary.total("net_bytes") == whole.total("net_bytes")
    pd.testing.assert_frame_equal(summary.services, whole.services)
    assert len(summary.hosts) == HOSTS
    modes = {path.stat().st_mode & 0o777 for path in results.path.rglob("*.parquet")}
    assert modes == {0o600}
    assert results.path.stat().st_mode & 0o777 == 0o700


def test_another_question_is_not_mixed_in(client: Client, fleet: Path, tmp_path: Path) -> None:
    read(client, fleet, tmp_path / "out.fleet")
    with pytest.raises(UsageError, match="another by"):
        Results(tmp_path / "out.fleet", Question(Policy(), "comm", 150.0))
    Results(tmp_path / "out.fleet", Question(Policy(), "comm", 150.0), replace=True)
    with pytest.raises(UsageError, match="no answers of a fleet"):
        Results(fleet, QUESTION, replace=True)
    assert (fleet / "h0.ksm").exists()


def test_roles_and_who_differs(client: Client, fleet: Path, tmp_path: Path) -> None:
    odd = host(0, host="web99", boot_id="boot-99", machine_id="id-99")
    odd.frames["hash"] = odd.frames["hash"].iloc[0]  # all pages alike
    write_snapshot(odd, fleet / "odd.ksm")
    roles = Roles(["# roles", "web[0-2] small", "web* large"], "roles.txt")
    summary, _ = read(client, fleet, tmp_path / "out.fleet", roles=roles)
    assert dict(zip(summary.roles["role"], summary.roles["hosts"], strict=True)) == {
        "large": 4,
        "small": 3,
    }
    everybody, _ = read(client, fleet, tmp_path / "out.fleet")
    assert everybody.odd["host"].tolist() == ["web99"]
    check("fleet", json.loads(json.dumps(fleet_json(everybody))))
    with pytest.raises(UsageError, match=r"roles.txt: no host fits db\*"):
        read(client, fleet, tmp_path / "out.fleet", roles=Roles(["db* db"], "roles.txt"))


def test_selectors_that_match_nothing_anywhere(client: Client, fleet: Path, tmp_path: Path) -> None:
    question = Question(Policy(comms=("nobody",)), "unit", 150.0)
    with pytest.raises(CannotAnswerError, match=r"none of 6 snapshots .* has comm nobody"):
        read(client, fleet, tmp_path / "out.fleet", question)


@contextmanager
def cluster_of_processes(directory: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler of its own, and its two workers."""
    file = directory / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    command = [*dask, "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard"]
    worker = [*dask, "worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard"]
    worker += ["--nthreads=1", f"--local-directory={directory}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    commands = [[*command, "--scheduler-file", str(file)], worker, worker]
    processes = [subprocess.Popen(one, **quiet) for one in commands]  # type: ignore[call-overload]
    try:
        for _ in range(1200):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_worker_that_dies_changes_nothing(
    client: Client, fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_CONNECT_SECONDS", 600)
    with (
        cluster_of_processes(tmp_path) as (address, workers),
        cluster(address, None) as other,
    ):
        other.wait_for_workers(2, timeout=600)

        def kill_one(done: int, total: int) -> None:
            if done == 1:
                workers[0].send_signal(signal.SIGKILL)

        disturbed, _ = read(other, fleet, tmp_path / "out.fleet", told=kill_one)
        assert workers[0].wait(300) == -signal.SIGKILL
        assert len(other.nthreads()) == 1
    undisturbed, _ = read(client, fleet, tmp_path / "again.fleet")
    one, other_one = (
        found.hosts.drop(columns="key").sort_values("place", ignore_index=True)
        for found in (disturbed, undisturbed)
    )
    pd.testing.assert_frame_equal(one, other_one)
    pd.testing.assert_frame_equal(disturbed.frontier, undisturbed.frontier)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = estimator("fleet", "report", "/tmp")
    assert done.returncode == 2
    assert done.stderr == (
        "ksm-estimator: fleet needs distributed; pip install 'ksm-estimator[fleet]'\n"
    )


def test_what_kills_every_worker_is_a_row() -> None:
    error = KilledWorker("task", cast(Any, SimpleNamespace(address="tcp://worker")), 3)
    future = SimpleNamespace(status="error", exception=lambda: error)
    found = run._result(future, "/big.ksm", None)
    assert "workers died of it" in found.row["problem"]
    assert found.row["passing"]
    with pytest.raises(TargetError, match="scheduler has gone"):
        run._result(
            SimpleNamespace(status="lost", exception=lambda: RuntimeError()), "/a.ksm", None
        )


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_CONNECT_SECONDS", 0.5)
    nobody = cluster("tcp://127.0.0.1:9", None)
    with pytest.raises(TargetError, match="no scheduler answers at tcp://127"):
        nobody.__enter__()


def test_storage_elsewhere_is_copied_and_forgotten(fleet: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(fleet / "h0.ksm"), "/site/h0.ksm", recursive=True)
    (place,) = find_places(["memory://site"], 10)
    assert place == "memory:///site/h0.ksm"
    with local_copy(place, 10) as path:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert {p.name for p in path.iterdir()} == {p.name for p in (fleet / "h0.ksm").iterdir()}
    assert not path.exists()


def test_storage_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    waiting = threading.Event()
    monkeypatch.setattr(storage, "_is_snapshot", lambda path: waiting.wait(30))
    with pytest.raises(TargetError, match=r"did not answer in 0\.1 s"):
        find_places(["/"], 0.1)
    waiting.set()


def test_what_is_no_place(tmp_path: Path) -> None:
    for name, message in (
        (str(tmp_path / "nothing"), "does not exist"),
        (str(tmp_path), "holds no snapshot"),
    ):
        with pytest.raises(TargetError, match=message):
            find_places([name], 10)
    with pytest.raises(UsageError, match="nothing://x"):
        find_places(["nothing://x"], 10)


def test_kinds_leave_out_what_numbers_instances() -> None:
    named = {
        "web@3.service": "web@*.service",
        "session-12.scope": "session-*.scope",
        "user@1000.service": "user@*.service",
        "nginx.service": "nginx.service",
        "k8s-app2.service": "k8s-app2.service",
        "cri-containerd-0123456789abcdef0123.scope": "cri-containerd-*.scope",
        "/user.slice/user-1000.slice/x.service": "/user.slice/user-*.slice/x.service",
        "kubepods-pod0a1b2c3d_0a1b_0a1b_0a1b_0a1b2c3d4e5f.slice": "kubepods-pod*.slice",
    }
    assert {name: kind_of(name) for name in named} == named


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "estimator", "fleet", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)


def test_the_command(fleet: Path, tmp_path: Path) -> None:
    (fleet / "empty.ksm").mkdir()
    out = {name: tmp_path / f"a.{name}" for name in ("html", "parquet")}
    files = ["--html", out["html"], "--parquet", out["parquet"]]
    first = command("report", fleet, "--workers", 1, "-o", tmp_path / "a.fleet", *files)
    assert first.returncode == 6, first.stderr
    assert first.stdout.startswith("6 of 7 hosts counted, 100% of their pages read: KSM would")
    assert "only 6 of 7 hosts are counted" in first.stderr
    assert out["html"].read_text().count("<svg") == 6
    assert {path.stat().st_mode & 0o777 for path in out.values()} == {0o600}
    table = pd.read_parquet(out["parquet"])
    assert len(table) == 3 * HOSTS
    assert table["net_bytes"].sum() == pytest.approx(
        sum(predict(host(n)).physical["net_bytes_saved"] for n in range(HOSTS))
    )


def test_people_ask_the_table_with_tools_of_their_own(
    client: Client, fleet: Path, tmp_path: Path
) -> None:
    import duckdb
    import polars as pl

    from estimator.fleet.summary import write_services

    summary, results = read(client, fleet, tmp_path / "out.fleet")
    path = tmp_path / "services.parquet"
    write_services(results, summary, path)
    expected = summary.services.set_index("service")["net_bytes"]
    asked = f"SELECT service, sum(net_bytes) AS net FROM '{path}' GROUP BY service"
    found = dict(duckdb.connect().execute(asked).fetchall())
    assert found == pytest.approx(expected.to_dict())
    by_polars = pl.scan_parquet(path).group_by("service").agg(pl.col("net_bytes").sum()).collect()
    assert dict(by_polars.iter_rows()) == pytest.approx(expected.to_dict())
