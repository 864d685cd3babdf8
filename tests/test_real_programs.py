"""The proof about real programs notices a difference, of a unit as of one way of reading."""

from __future__ import annotations

import json
from dataclasses import replace

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.lab.compare import unequal
from tests.lab.real_page import page
from tests.lab.real_programs import Program
from tests.lab.real_proof import Proof, unit_numbers
from tests.lab.truth import State
from tests.systems import Area, Process, system

ENABLED = Policy(scope="enabled")
REDIS = "/programs.slice/redis.service"
PROGRAM = Program("Redis", ("redis.service",), (), "redis-server --version")


def two_servers(contents: list[int]) -> Snapshot:
    """Two processes of a unit with the same pages, and a process of no unit."""
    area = Area(list(contents), mergeable=True)
    servers = [Process("redis", [area], REDIS, pid=pid) for pid in (10, 11)]
    return system([*servers, Process("other", [Area([7])], "/init.scope", pid=12)], smart_scan=0)


def truth(snapshot: Snapshot) -> State:
    """What a kernel says that does what is predicted."""
    prediction = predict(snapshot, ENABLED)
    columns = ["pid", "comm", "ksm_merging_pages", "ksm_rmap_items", "ksm_zero_pages"]
    rows = json.loads(prediction.processes[columns].to_json(orient="records"))
    processes = [row | {"ksm_stat": {}, "vmas": []} for row in rows]
    ksm = {name: str(value) for name, value in prediction.counters.items()} | {"smart_scan": "0"}
    return State(ksm, processes, {}, 0, 0, 0)


def proof(snapshot: Snapshot, other: Snapshot) -> Proof:
    ways = {"core": snapshot, "live": other}
    return Proof("7.3", [PROGRAM], ["8.0"], [10, 11], ways, truth(snapshot))


def test_units_are_sums_of_their_processes() -> None:
    snapshot = two_servers([1, 2, 3])
    prediction = predict(snapshot, ENABLED)
    numbers = unit_numbers(prediction, truth(snapshot), snapshot)
    assert numbers[f"ksm_merging_pages of {REDIS}"] == (6, 6)
    assert unequal(numbers) == {}
    true = truth(snapshot)
    true.processes[1]["ksm_merging_pages"] += 1
    wrong = unequal(unit_numbers(prediction, true, snapshot))
    assert wrong == {f"ksm_merging_pages of {REDIS}": (6, 7)}


def test_a_way_of_reading_that_differs_is_named() -> None:
    snapshot = two_servers([1, 2, 3])
    assert proof(snapshot, snapshot).differences() == {}
    found = proof(snapshot, two_servers([1, 2, 2])).differences()
    assert set(found) == {"live"}
    assert found["live"]["pages_shared"] == (2, 3)


def test_the_page_says_what_is_saved_and_what_differs() -> None:
    snapshot = two_servers([1, 2, 3])
    text = page([proof(snapshot, snapshot)], "abc")
    assert "| pages_sharing | 3 | 3 | 3 |" in text
    assert "| Redis | 2 | 0.0 | 6 | 6 | 0 | 0 |" in text
    assert "**differs**" not in text
    other = replace(proof(snapshot, two_servers([1, 2, 2])), release="6.12")
    assert "**differs**, `--live`: pages_shared: predicted 2, ksmd 3" in page([other], "abc")
