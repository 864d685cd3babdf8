"""One frozen system, read in four ways, has one answer: processes, VMAs, counters, saving."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest

from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import lab_kernel
from tests.lab.kernels import IN_FULL
from tests.lab.running import running
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

ADVISED = """
map list 700
fill list list 1
map same 300
fill same same 2
map huge 1024
advise huge hugepage
fill huge list 3
map zero 100
fill zero zero
read zero[:50]
advise list mergeable
advise same mergeable
advise zero mergeable
advise huge[:512] mergeable
fork 3
    fill list[:100] own 5
end
"""
PRCTL = """
merge-any 1
map own 60
fill own same 2
map list 200
fill list list 1
fork 2
    fill list[:50] own 7
end
"""
POLICIES = {
    "enabled": Policy(scope="enabled"),
    "all": Policy(comms=("actor",)),  # the others run on between one look and the next
    "smaller": Policy(comms=("actor",), max_page_sharing=64),
    "zero": Policy(scope="enabled", use_zero_pages=True),
}


@pytest.fixture(scope="module", params=IN_FULL)
def looks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Snapshot]]:
    """The snapshots of one system by way of reading; ksmd has merged some of it and stands."""
    kernel, directory = lab_kernel(request.param), tmp_path_factory.mktemp("four")
    scripts = (ADVISED,) if request.param == "6.1" else (ADVISED, PRCTL, PRCTL)
    with running(Workload("four-ways", scripts), kernel, directory, debian=True) as guest:
        guest.session.scan(2)
        found = {}
        for way in ("procfs", "live"):
            status, output = guest.estimator(f"collect --{way} -o /tmp/{way}.ksm")
            assert status == 0, output
            found[way] = open_snapshot(
                guest.fetch_snapshot(f"/tmp/{way}.ksm", tmp_path_factory.mktemp(way))
            )
        guest.guest.qmp("stop")
        found["qemu"] = collect(open_qemu(str(guest.monitor)))
        guest.guest.dump(directory / "vmcore")
        found["core"] = collect_core(directory / "vmcore")
        yield found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", ["procfs", "live", "qemu"])
def test_the_answer_is_that_of_a_dump(looks: Mapping[str, Snapshot], way: str, policy: str) -> None:
    dump = predict(looks["core"], POLICIES[policy])
    assert dump.counters["pages_sharing"] > 500
    found = predict(looks[way], POLICIES[policy])
    pids = frozenset(looks["core"].processes["pid"])
    assert answer(found, pids) == answer(dump, pids)


def answer(prediction: Prediction, pids: Collection[int]) -> dict[str, Any]:
    """All that is said of the processes ``pids``, and of all together, by name.

    Not which frames the whole system has: the reader that runs in the guest has some of them.
    """
    physical = prediction.physical.items()
    processes = prediction.processes[prediction.processes["pid"].isin(pids)]
    vmas = prediction.vmas[prediction.vmas["pid"].isin(pids)]
    vmas = vmas[vmas["excluded_by"].isna()].set_index(["pid", "start"]).sort_index()
    processes = processes.set_index("pid").sort_index()
    return {
        "counters": prediction.counters,
        "physical": {n: v for n, v in physical if n not in ("frames_before", "frames_after")},
        "coverage": prediction.coverage,
        "scans": prediction.scans,
        "processes": processes.drop(columns="mm_id").to_dict("index"),
        "vmas": vmas.drop(columns=["mm_id", "vma_id", "excluded_by"]).to_dict("index"),
    }
