"""The demonstration: boot, dump, predict, then let the real ksmd at the same memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.lab.apt import LabError
from tests.lab.guest import Guest
from tests.lab.kernels import WITHOUT_SYMBOLS, cache_directory, ensure_tools, fetch_kernel
from tests.lab.programs import build
from tests.lab.truth import State, report, settle
from tests.lab.workload import Session
from tests.lab.workloads.fork_server import WORKERS, WORKLOADS

COUNTERS = (
    "pages_shared",
    "pages_sharing",
    "pages_unshared",
    "pages_volatile",
    "stable_node_chains",
    "stable_node_dups",
    "general_profit",
)
console = Console(stderr=True)
started = time.monotonic()


def step(text: str) -> None:
    """Say what happens now, and when."""
    console.print(f"[bold]==> [{time.monotonic() - started:5.1f} s] {text}[/bold]")


def main() -> None:
    """Run the demonstration; exits with 1 if prediction and truth differ."""
    step("a Debian kernel, without debug symbols (cached after the first time)")
    ensure_tools()
    kernel = fetch_kernel(WITHOUT_SYMBOLS[-1])
    workload = next(w for w in WORKLOADS if "6.12" in w.series)
    out = cache_directory() / "demo"
    out.mkdir(exist_ok=True)
    step(f"booting {kernel.release} in QEMU: a controller forks {WORKERS} workers")
    files = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe")}
    with (
        tempfile.TemporaryDirectory(dir=out) as scratch,
        Guest(kernel, memory_mib=workload.memory_mib, files=files) as guest,
    ):
        session = Session(guest, workload)
        session.set_up()
        for script in workload.scripts:
            session.start(script)
        step("taking a vmcore; KSM is off")
        vmcore = Path(scratch) / "vmcore"
        guest.dump(vmcore)
        step("predicting from the vmcore alone")
        predicted = predict(vmcore, out / "fork-server.ksm")
        step("turning KSM on in the guest, until its counters stay the same")
        settle(guest, min_scans=workload.min_scans)
        truth = report(guest)
    step("done")
    exact = compare(predicted, truth)
    command = Path(sys.executable).with_name("ksm-estimator")
    console.print(
        f"The snapshot is kept. Ask it more: {command} report {out}/fork-server.ksm", soft_wrap=True
    )
    sys.exit(0 if exact else 1)


def predict(vmcore: Path, snapshot: Path) -> dict[str, int]:
    """Run the command on the dump as a user would; the counters that it predicts."""
    shutil.rmtree(snapshot, ignore_errors=True)
    command = ["ksm-estimator", "run", "--core", str(vmcore)]
    command += ["-o", str(snapshot), "--scope", "enabled"]
    console.print(f"$ {' '.join(command)}", style="cyan", soft_wrap=True)
    subprocess.run(command, check=True)
    again = ["ksm-estimator", "predict", str(snapshot), "--scope", "enabled", "--json"]
    answer = subprocess.run(again, check=True, stdout=subprocess.PIPE).stdout
    counters: dict[str, int] = json.loads(answer)["counters"]
    return counters


def compare(predicted: dict[str, int], truth: State) -> bool:
    """Print prediction and truth side by side; whether they are equal."""
    table = Table(title="Prediction and truth")
    for column in ("counter", "predicted", "ksmd", "difference"):
        table.add_column(column, justify="left" if column == "counter" else "right")
    differences = []
    for name in COUNTERS:
        real = truth.counter(name) or 0
        differences.append(predicted[name] - real)
        table.add_row(name, f"{predicted[name]:,}", f"{real:,}", f"{differences[-1]:,}")
    Console().print(table)
    return not any(differences)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: {' '.join(map(os.fspath, error.cmd))} failed")
    except KeyboardInterrupt:
        sys.exit(130)
