"""The frozen programs read in four ways, predicted, and then what ksmd does with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.compare import Numbers, all_numbers, process_counters, unequal
from tests.lab.kernels import Kernel, say
from tests.lab.real_programs import PROGRAMS, Program, freeze, start
from tests.lab.systemd_guest import SystemdGuest, systemd_guest
from tests.lab.truth import KSM, State, report, settle

IN_GUEST = ("live", "procfs")
IN_GUEST_DIRECTORY = "/var/tmp"
SETTINGS = {"smart_scan": "0", "use_zero_pages": "1"}


@dataclass(frozen=True)
class Proof:
    """``snapshots`` by the way they were read; ``versions`` of ``programs``; ``pids``: the frozen
    processes; ``truth``: when ksmd had come to rest."""

    release: str
    programs: Sequence[Program]
    versions: Sequence[str]
    pids: Sequence[int]
    snapshots: dict[str, Snapshot]
    truth: State

    @property
    def snapshot(self) -> Snapshot:
        """The one of the dump."""
        return self.snapshots["core"]

    def predictions(self, policy: Policy) -> dict[str, Prediction]:
        """By the way the memory was read."""
        return {way: predict(snapshot, policy) for way, snapshot in self.snapshots.items()}

    def numbers(self) -> dict[str, Numbers]:
        """Predicted and true, by the way the memory was read: counters of the system, of every
        process, of every VMA, and the sums of every unit."""
        found = {}
        for way, prediction in self.predictions(Policy(scope="enabled")).items():
            snapshot = self.snapshots[way]
            found[way] = all_numbers(prediction, self.truth, snapshot)
            found[way] |= unit_numbers(prediction, self.truth, snapshot)
        return found

    def differences(self) -> dict[str, Numbers]:
        """Those of ``numbers`` in which the two differ, by the way; ways without are left out."""
        wrong = {way: unequal(numbers) for way, numbers in self.numbers().items()}
        return {way: numbers for way, numbers in wrong.items() if numbers}


def unit_numbers(prediction: Prediction, truth: State, snapshot: Snapshot) -> Numbers:
    """The counters of processes, summed by cgroup."""
    cgroup_of_pid = snapshot.processes.set_index("pid")["cgroup"]
    true = pd.DataFrame(
        [{"cgroup": cgroup_of_pid.get(p["pid"]), **process_counters(p)} for p in truth.processes]
    )
    predicted = prediction.cgroups.set_index("cgroup")
    return {
        f"{name} of {cgroup}": (int(predicted[name].get(cgroup, 0)), int(value))
        for cgroup, sums in true.groupby("cgroup").sum().iterrows()
        for name, value in sums.items()
    }


def read_in_guest(system: SystemdGuest, directory: Path) -> dict[str, Snapshot]:
    """What the command in the guest collects, by the target it is given; on one CPU each."""
    system.estimator(*(f"collect --{way} -o {IN_GUEST_DIRECTORY}/{way}.ksm" for way in IN_GUEST))
    return {
        way: open_snapshot(system.fetch(f"{IN_GUEST_DIRECTORY}/{way}.ksm", directory / way))
        for way in IN_GUEST
    }


def read_from_outside(system: SystemdGuest, directory: Path) -> dict[str, Snapshot]:
    """What QEMU lets us read of the stopped guest: at once, and from a dump."""
    guest, vmcore = system.guest, directory / "vmcore"
    guest.qmp("stop")
    running = collect(open_qemu(str(system.monitor)))
    guest.dump(vmcore)
    guest.qmp("cont")
    dump = collect_core(vmcore, [guest.kernel.vmlinux])
    vmcore.unlink()
    return {"qemu": running, "core": dump}


@contextmanager
def frozen(
    kernel: Kernel, programs: Sequence[Program], *, memory_ksm: bool = True
) -> Iterator[tuple[SystemdGuest, list[int]]]:
    """A guest with ``programs`` at rest, and their pids."""
    with (
        tempfile.TemporaryDirectory(prefix="ksm-programs.") as directory,
        systemd_guest(kernel, Path(directory)) as system,
    ):
        for name, value in SETTINGS.items():
            system.guest.write_file(f"{KSM}/{name}", value)
        start(system, programs, memory_ksm=memory_ksm)
        yield system, freeze(system)


def prove(kernel: Kernel, programs: Sequence[Program] = PROGRAMS) -> Proof:
    """Freeze ``programs``, read them, and let ksmd run."""
    with (
        frozen(kernel, programs) as (system, pids),
        tempfile.TemporaryDirectory(prefix="ksm-programs.") as directory,
    ):
        versions = [", ".join(system.run(program.version).splitlines()) for program in programs]
        snapshots = read_in_guest(system, Path(directory))
        snapshots |= read_from_outside(system, Path(directory))
        say("read in four ways; now ksmd")
        settle(system.guest, min_scans=4)
        truth = report(system.guest)
    return Proof(kernel.release, programs, versions, pids, snapshots, truth)
