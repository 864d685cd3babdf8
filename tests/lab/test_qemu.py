"""A running guest read through QMP holds what its dump holds; what is said if it can't be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from estimator.errors import TargetError
from estimator.kernel import running as module
from estimator.kernel.check_running import check_qemu
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.kernel.session import from_program
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import Unknown
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import newest_and_oldest
from tests.lab.kernels import IN_FULL, ensure_tools, fetch_kernel
from tests.lab.running import Running, running
from tests.lab.workload import Workload
from tests.small_pieces import small_pieces

pytestmark = pytest.mark.lab

MIXED = Workload(
    "mixed",
    (
        """
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
        map closed 40
        fill closed own 4
        protect closed none
        advise list mergeable
        advise same mergeable
        advise huge[:512] mergeable
        fork 3
            fill list[:100] own 5
        end
        """,
    ),
)
TABLES = ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items")


@pytest.fixture(scope="module", params=newest_and_oldest(IN_FULL))
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    ensure_tools()
    with running(MIXED, fetch_kernel(request.param), tmp_path_factory.mktemp("qemu")) as guest:
        guest.session.scan(2)  # some of it is merged
        yield guest


def test_a_guest_and_its_dump_are_the_same_snapshot(system: Running, tmp_path: Path) -> None:
    vmlinux = system.guest.kernel.vmlinux
    system.guest.qmp("stop")
    live = collect(open_qemu(str(system.monitor), [vmlinux]), seed=0)
    own = collect(open_qemu(str(system.monitor)), seed=0)
    with small_pieces():
        small = collect(open_qemu(str(system.monitor), [vmlinux]), seed=0)
    system.guest.dump(tmp_path / "vmcore")
    system.guest.qmp("cont")
    dump = collect_core(tmp_path / "vmcore", [vmlinux], seed=0)
    assert live.info["source"]["kind"] == "qemu"
    assert live.frames["hash"].notna().all()
    assert len(live.stable_nodes) > 0
    assert ("visits" in live.mappings) == bool(live.info["features"]["smart_scan"])
    assert own.info["symbols"] == "BTF"
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(live, name), getattr(dump, name))
        pd.testing.assert_frame_equal(getattr(own, name), getattr(dump, name))
        pd.testing.assert_frame_equal(getattr(small, name), getattr(dump, name))


def test_a_session_of_drgn_with_a_guest_is_one_with_a_guest(system: Running) -> None:
    prog = open_qemu(str(system.monitor), [system.guest.kernel.vmlinux]).prog
    target = from_program(prog)
    assert target.running
    assert target.kind == "qemu"


def test_a_monitor_in_use_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GREETING_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "monitor"))
        silent.listen()
        with pytest.raises(TargetError, match="another client"):
            open_qemu(str(tmp_path / "monitor"))


def test_inside_drgn_there_is_a_command_and_a_script(system: Running, tmp_path: Path) -> None:
    system.guest.dump(tmp_path / "vmcore")
    drgn = [str(Path(sys.executable).with_name("drgn")), "-q", "-c", str(tmp_path / "vmcore")]
    drgn += ["-s", str(system.guest.kernel.vmlinux)]
    environment = os.environ | {
        "DRGN_PLUGINS": "ksm=estimator.drgn_plugin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [*drgn, "-e", COMMANDS], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "pandas: False"
    assert "pages_sharing" in done.stdout
    assert "one line: ksm-estimate: no process of the snapshot has pid 99999" in done.stdout
    assert "hashed: 0" in done.stdout
    sharing = int(done.stdout.splitlines()[-1])
    script = Path(__file__).parents[2] / "scripts" / "ksm_snapshot.py"
    out = tmp_path / "inside.ksm"
    subprocess.run([*drgn, str(script), str(out)], env=environment, check=True)
    prediction = predict(open_snapshot(out), Policy(scope="enabled"))
    assert prediction.counters["pages_sharing"] == sharing > 0


COMMANDS = """
import sys
from drgn.commands import CommandError, run_command
print("pandas:", "pandas" in sys.modules)
try:
    run_command(prog, "ksm-estimate --pid 99999")
except CommandError as error:
    print("one line:", error)
print("hashed:", run_command(prog, "ksm-estimate --without-contents").coverage.hashed_pages)
print(run_command(prog, "ksm-estimate --scope enabled").counters["pages_sharing"])
"""


def test_check_says_what_the_guest_allows(system: Running, tmp_path: Path) -> None:
    findings = check_qemu(str(system.monitor), [system.guest.kernel.vmlinux])
    assert findings.exit_code == 0
    assert {finding.status for finding in findings.found} == {"ok"}
    facts = {name: value for finding in findings.found for name, value in finding.facts.items()}
    real = collect(open_qemu(str(system.monitor), [system.guest.kernel.vmlinux]))
    assert facts["processes"] == len(real.processes)
    assert facts["mergeable_vmas"] == real.vmas["mergeable"].sum() > 0
    assert facts["anonymous_bytes"] == pytest.approx(4096 * len(real.frames), rel=0.05)
    assert facts["pages_sharing"] == real.info["ksm"]["counters"]["pages_sharing"] > 0
    without = collect(
        open_qemu(str(system.monitor), [system.guest.kernel.vmlinux]), without_contents=True
    )
    assert set(without.frames["unknown"]) == {Unknown.NOT_READ}
    assert len(without.frames) == pytest.approx(len(real.frames), rel=0.05)
    nowhere = check_qemu(str(tmp_path / "nowhere"), [])
    assert [finding.status for finding in nowhere.found] == ["fail"]
    assert nowhere.exit_code == 3
