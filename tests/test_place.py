"""What samples say of two machines, and which of them stand together: against all the hashes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import TargetError, UsageError
from estimator.fleet.limits import limits_of
from estimator.fleet.place import Site, greedy, improve, propose, site_of, unlike
from estimator.fleet.place_exact import solve
from estimator.fleet.sketch import (
    SIZE,
    Sketch,
    _mixed,
    read_sketches,
    shared_pages,
    similarity,
    sketches,
    write_sketches,
)
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.schemas import check
from tests.systems import Area, Process, fork_server, system

SEED = {"name": "test", "seed": 5, "seed_id": "a"}


def vm(name: str, contents: list[int]) -> Process:
    return Process("qemu", [Area(list(contents))], cmdline=f"qemu -name guest={name} -m 64")


def site_host(host: str, *machines: Process, seed_id: str = "a") -> Snapshot:
    made = system(list(machines))
    return replace(made, info=made.info | {"host": host, "hash": SEED | {"seed_id": seed_id}})


def one_sketch(contents: list[int]) -> Sketch:
    return sketches(site_host("h", vm("a", contents)))[0]


def made_of(contents: Sequence[int], size: int = SIZE) -> Sketch:
    """The sketch of a machine with these contents, a frame each, without a snapshot."""
    numbers = np.array(contents, np.uint64)
    hashes = np.sort(_mixed(numbers))
    sizes = {"memory_pages": len(numbers), "frames": len(numbers), "contents": len(numbers)}
    copies = np.ones(min(size, len(numbers)), np.uint32)
    return Sketch("a", "h", "a", True, 4096, **sizes, hashes=hashes[:size], copies=copies)


def test_the_short_way_is_that_of_a_snapshot() -> None:
    contents = range(3000)
    one, other = made_of(contents), one_sketch([*contents])
    assert similarity(one, one) == similarity(other, other) == 1
    assert (one.frames, one.contents, one.below) == (other.frames, other.contents, other.below)


@pytest.mark.parametrize("common", [0, 2_000, 10_000, 18_000, 20_000])
def test_similarity_is_within_two_percent_of_all_hashes(common: int) -> None:
    first, second = range(20_000), range(20_000 - common, 40_000 - common)
    one, other = made_of(first), made_of(second)
    assert len(one.hashes) == SIZE
    exact = common / (40_000 - common)
    assert similarity(one, other) == pytest.approx(exact, abs=0.02)
    full = [made_of(contents, 20_000) for contents in (first, second)]
    assert similarity(*full) == exact
    assert shared_pages(*full) == pytest.approx(common)


def test_machines_of_two_sizes_are_compared_over_what_both_samples_cover() -> None:
    large, little = made_of(range(60_000)), made_of(range(30_000))
    assert similarity(large, little) == pytest.approx(0.5, abs=0.02)
    assert similarity(made_of([1, 2]), made_of([2, 3])) == 1 / 3


def test_a_sketch_counts_copies_and_is_small(tmp_path: Path) -> None:
    one = one_sketch([1, 1, 1, 2, 2, 3])
    assert (one.frames, one.contents, one.self_sharing_pages) == (6, 3, 3)
    assert sorted(one.copies.tolist()) == [1, 2, 3]
    snapshot = site_host("h", vm("a", [1, 1, 1, 2, 2, 3]))
    assert predict(snapshot).physical["frames_freed"] == one.self_sharing_pages
    write_snapshot(site_host("h", vm("a", list(range(6_000)))), tmp_path / "a.ksm")
    made = estimator("fleet", "sketch", tmp_path / "a.ksm", "-o", tmp_path / "a.sketch")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "a.sketch").stat().st_size < 40 * 1024
    assert (tmp_path / "a.sketch").stat().st_mode & 0o777 == 0o600


def test_who_is_a_unit() -> None:
    found = sketches(replace(fork_server(), info=fork_server().info | {"hash": SEED}))
    named = {one.unit: one for one in found}
    assert set(named) == {"app.service", "batch.service", "session-*.scope"}
    assert not any(one.machine for one in found)
    assert named["session-*.scope"].memory_pages - named["session-*.scope"].frames == 20  # unread
    assert one_sketch([1]).machine


def union(*snapshots: Snapshot) -> Snapshot:
    """All machines of ``snapshots`` on one host."""
    hashes: dict[str, list[int]] = {}
    for one in snapshots:
        for vma, frame in one.mappings[["vma_id", "frame_id"]].itertuples(index=False):
            mm = one.vmas["mm_id"].iloc[vma]
            key = str(one.processes["cmdline"].iloc[mm])
            hashes.setdefault(key, []).append(int(one.frames["hash"].iloc[frame]))
    numbers = {h: n + 1 for n, h in enumerate(sorted(set(itertools.chain(*hashes.values()))))}
    machines = [
        Process("qemu", [Area([numbers[h] for h in found])], cmdline=str(key))
        for key, found in hashes.items()
    ]
    return system(machines)


def four_machines() -> list[Snapshot]:
    """Two hosts with one machine each of two kinds, which share nothing but a few pages."""
    kinds = {"web": list(range(100, 400)), "db": list(range(1000, 1300))}
    everybody = list(range(20))
    number = iter(range(10_000, 100_000))

    def machine(kind: str, name: str) -> Process:
        own = [next(number) for _ in range(50)]
        return vm(f"{kind}-{name}", [*everybody, *kinds[kind], *own, *own[:5]])

    return [site_host(host, machine("web", host), machine("db", host)) for host in ("one", "two")]


def test_the_saving_expected_is_that_of_the_full_prediction() -> None:
    snapshots = four_machines()
    units = [one for snapshot in snapshots for one in sketches(snapshot)]
    site = site_of(units, ["one", "two"], np.array([800.0, 800.0]), np.full(4, -1))
    found = propose(site, 10)
    assert found is not None
    assert found.proven
    kinds = {
        unit.unit.split("-")[0]: host for unit, host in zip(units, found.placement, strict=True)
    }
    assert kinds["web"] != kinds["db"]
    inside = sum(one.self_sharing_pages for one in units)
    now = sum(predict(one).physical["frames_freed"] for one in snapshots)
    assert now == inside + site.shared_pages(site.present)
    web, db = (union(*(_only(snapshot, kind) for snapshot in snapshots)) for kind in ("web", "db"))
    then = sum(predict(one).physical["frames_freed"] for one in (web, db))
    assert then == inside + found.shared_pages
    assert then > now


def _only(snapshot: Snapshot, kind: str) -> Snapshot:
    mms = snapshot.processes["cmdline"].str.contains(f"guest={kind}-").to_numpy()
    vmas = mms[snapshot.vmas["mm_id"].to_numpy()]
    rows = vmas[snapshot.mappings["vma_id"].to_numpy()]
    return replace(snapshot, mappings=snapshot.mappings[rows])


@st.composite
def sites(draw: st.DrawFn) -> Site:
    units, hosts = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    sets = draw(st.integers(1, 6))
    has = np.array(draw(st.lists(st.booleans(), min_size=units * sets, max_size=units * sets)))
    memory = np.array(draw(st.lists(st.integers(5, 9), min_size=units, max_size=units)), float)
    has = has.reshape(units, sets)
    pages = np.array(draw(st.lists(st.integers(1, 3), min_size=sets, max_size=sets)), float)
    tenants = draw(st.lists(st.integers(-1, 1), min_size=units, max_size=units))
    room = draw(st.integers(8, 40))
    return Site(
        has=has,
        pages=pages,
        memory=memory + has @ pages,
        capacity=np.full(hosts, float(room)),
        present=np.array(draw(st.lists(st.integers(0, hosts - 1), min_size=units, max_size=units))),
        tenant=np.array(tenants),
        apart=(frozenset({0, 1}),) if draw(st.booleans()) else (),
        after_sharing=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(sites())
def test_no_placement_is_better_than_the_one_that_is_proven(site: Site) -> None:
    every = itertools.product(range(site.hosts), repeat=len(site.memory))
    allowed = [p for p in map(np.array, every) if site.allowed(p)]
    best = max(map(site.shared_pages, allowed), default=None)
    exact = solve(site, 10)
    assert exact is not None
    found = propose(site, 10)
    if best is None:
        assert found is None
        assert exact.placement is None
        return
    assert best <= site.most_shared() + 1e-6
    assert exact.at_most_pages == pytest.approx(best, abs=1e-4)
    assert found is not None
    assert site.allowed(found.placement)
    assert found.shared_pages == pytest.approx(best)
    assert found.at_most_pages >= best - 1e-6
    start = greedy(site)
    if site.allowed(start):
        better = improve(site, start)
        assert site.allowed(better)
        assert site.shared_pages(start) <= site.shared_pages(better) <= best + 1e-6


def test_labels_limit_and_must_fit() -> None:
    units = ["web-1", "web-2", "db-1"]
    tenant, apart = limits_of(units, ["# x", "web-* tenant=a", "db-1 tenant=b", "*-1 apart=g"], "f")
    assert tenant.tolist() == [0, 0, 1]
    assert apart == (frozenset({0, 2}),)
    for line, message in (
        ("mail* tenant=a", "f, line 1: no unit fits mail"),
        ("web-1 color=a", "is not UNIT-PATTERN"),
        ("web-1", "is not UNIT-PATTERN"),
    ):
        with pytest.raises(UsageError, match=message):
            limits_of(units, [line], "f")
    with pytest.raises(UsageError, match="another tenant"):
        limits_of(units, ["web-1 tenant=a", "web-* tenant=b"], "f")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for snapshot in four_machines():
        paths.append(tmp_path / f"{snapshot.info['host']}.sketch")
        write_sketches(sketches(snapshot), paths[-1])
    return paths


def test_the_command(files: list[Path], tmp_path: Path) -> None:
    found = json.loads(estimator("fleet", "place", *files, "--json").stdout)
    check("place", found)
    assert found["proven"]
    assert found["between_proposed_bytes"] == found["between_at_most_bytes"]
    assert found["between_proposed_bytes"] - found["between_now_bytes"] == 2 * 300 * 4096
    assert len(found["moves"]) == 2
    told = estimator("fleet", "place", *files)
    assert told.returncode == 0
    assert told.stdout.startswith("Placed anew, 4 units on 2 hosts would share 2.5 MiB between")
    labels = tmp_path / "labels"
    labels.write_text("web-* apart=web\n")
    apart = json.loads(estimator("fleet", "place", *files, "--labels", labels, "--json").stdout)
    assert apart["moves"] == []
    assert estimator("fleet", "place", *files, "--capacity", "1M").returncode == 5
    assert estimator("fleet", "place", *files, "--capacity", "lots").returncode == 2


def test_what_can_not_be_compared(files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.sketch"
    write_sketches(sketches(site_host("three", vm("x", [1]), seed_id="b")), other)
    with pytest.raises(UsageError, match="one and three were hashed with two seeds"):
        read_sketches([*files, other])
    with pytest.raises(UsageError, match="is there twice"):
        read_sketches([files[0], files[0]])
    other.write_bytes(b"nothing")
    with pytest.raises(TargetError, match="is no sketch"):
        read_sketches([other])


def test_the_seed_of_the_fleet_is_checked(tmp_path: Path) -> None:
    write_snapshot(site_host("h", vm("a", [1, 2])), tmp_path / "a.ksm")
    seed = tmp_path / "seed"
    for text, code in (("0x5", 0), ("0x6", 2)):
        seed.write_text(text)
        seed.chmod(0o600)
        out = tmp_path / f"{code}.sketch"
        done = estimator("fleet", "sketch", tmp_path / "a.ksm", "-o", out, "--seed-file", seed)
        assert done.returncode == code, done.stderr
        assert out.exists() == (code == 0)


def test_a_data_centre_holds_more_machines_where_alike_ones_stand_together() -> None:
    """Of the shape of Memory Buddies (VEE 2009): kinds of machine, hosts of one size."""
    rng = np.random.default_rng(1)
    kinds, hosts, pages = 4, 4, 1000
    units: list[Sketch] = []
    for number in range(70):
        kind = int(rng.integers(kinds))
        base = range(100)  # of the distribution that all run
        program = range(10_000 * (kind + 1), 10_000 * (kind + 1) + 350)
        own = range(10**6 + number * pages, 10**6 + number * pages + 550)
        units.append(made_of([*base, *program, *own]))
    site = site_of(
        [replace(unit, unit=str(n), host="h") for n, unit in enumerate(units)],
        ["h"],
        np.full(hosts, 8_000.0),
        np.full(len(units), -1),
        after_sharing=True,
    )
    order = np.arange(len(units))
    blind = greedy(site, order, aware=False)
    aware = greedy(site, order, first=unlike(site))
    for placement in (blind, aware):
        there = [placement == host for host in range(hosts)]
        assert all(site.fits(units_of, host) for host, units_of in enumerate(there))
    assert (aware >= 0).sum() >= 1.1 * (blind >= 0).sum()
