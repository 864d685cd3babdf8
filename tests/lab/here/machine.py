"""This machine's own KSM: whether it may be used for a proof, and every setting put back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from estimator.errors import EstimatorError
from estimator.ksm.candidates import on_ksmds_list
from estimator.procfs.collect import collect_procfs
from tests.lab.apt import LabError
from tests.lab.programs import build
from tests.lab.truth import HISTORY, State

KSM = Path("/sys/kernel/mm/ksm")
KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")
UNMERGED_SECONDS = 120.0
SETTLE_SECONDS = 600.0
AN_HOUR = "3600000"
SETTINGS = {  # in the order in which the kernel accepts them; what this kernel lacks is left out
    "run": "0",
    "advisor_mode": "none",
    "smart_scan": "0",
    "pages_to_scan": "1000000000",
    "sleep_millisecs": "0",
}


def refusal() -> str | None:
    """Why ksmd of this machine can't be used for a proof; None if it can."""
    if os.geteuid():
        return "only root can turn ksmd on"
    if not KSM.is_dir():
        return "this kernel has no KSM"
    if (run := _read("run")) != "0":
        return f"KSM is in use here: {KSM / 'run'} is {run}"
    if int(_read("pages_shared")):
        return f"KSM has been used here: pages_shared is {_read('pages_shared')}"
    try:
        snapshot = collect_procfs(without_contents=True, progress=silent, pace=no_pace)
    except EstimatorError as error:
        return str(error)
    processes = snapshot.processes[on_ksmds_list(snapshot)]
    if len(processes):
        pid, comm = processes.iloc[0][["pid", "comm"]]
        return f"{len(processes)} processes have opted in to KSM here, as {comm} (pid {pid})"
    return None


def command(name: str, prove: Callable[[], int]) -> int:
    """Exit status of a command that uses this machine's ksmd: that of ``prove``.

    3 if the machine is not to be used, 1 if a program or ksmd does not do its part.
    """
    if reason := refusal():
        print(f"{name}: {reason}", file=sys.stderr)
        return 3
    try:
        return prove()
    except LabError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; all is as it was", file=sys.stderr)
        return 130


@contextlib.contextmanager
def borrowed(**settings: str) -> Iterator[None]:
    """KSM set up for a proof, khugepaged asleep; all as it was when the context ends.

    When a signal ends it, too: what was merged is unmerged, then the settings are put back.
    """
    wanted = {n: v for n, v in (SETTINGS | settings).items() if (KSM / n).exists()}
    before = {name: _chosen(_read(name)) for name in wanted}
    slept = KHUGEPAGED.read_text().strip() if KHUGEPAGED.exists() else None
    handlers = {n: signal.signal(n, _interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for name, value in wanted.items():
            _write(name, value)
        if slept is not None:
            KHUGEPAGED.write_text(AN_HOUR)
        yield
    finally:
        if slept is not None:
            KHUGEPAGED.write_text(slept)
        unmerge()
        for name in reversed(before):
            _write(name, before[name])
        for number, handler in handlers.items():
            signal.signal(number, handler)


def unmerge() -> None:
    """``echo 2 > run``, until nothing is merged."""
    _write("run", "2")
    deadline = time.monotonic() + UNMERGED_SECONDS
    while int(_read("pages_shared")) and time.monotonic() < deadline:
        time.sleep(0.05)
    _write("run", "0")


def settle(min_scans: int = 4, stable_scans: int = 3) -> list[dict[str, int]]:
    """Let ksmd run until its counters stay the same; the counters each time it was stopped."""
    most = 20 * (min_scans + stable_scans)
    lines = _probe("settle", str(min_scans), str(stable_scans), str(most)).splitlines()
    return [dict(zip(HISTORY, map(int, line.split()), strict=True)) for line in lines]


def scans(seconds: float) -> Iterator[dict[str, int]]:
    """The counters after each full scan; ksmd sleeps for ``seconds`` after each.

    ksm_do_scan() ends with the last page of a full scan, whatever pages_to_scan is.
    """
    _write("sleep_millisecs", str(int(1000 * seconds)))
    _write("run", "1")
    while True:
        before, deadline = _read("full_scans"), time.monotonic() + SETTLE_SECONDS
        while _read("full_scans") == before:
            if time.monotonic() > deadline:
                raise LabError(f"ksmd made no full scan in {SETTLE_SECONDS:.0f} seconds")
            time.sleep(0.05)
        yield {name: int(_read(name)) for name in HISTORY}


def report() -> State:
    """What the kernel says now."""
    return State(**json.loads(_probe("report")))


def _probe(*arguments: str) -> str:
    command = [str(build("probe")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SETTLE_SECONDS)
    if done.returncode:
        raise LabError(f"probe {arguments[0]}: {done.stderr}{done.stdout[-200:]}")
    return done.stdout


def _read(name: str) -> str:
    return (KSM / name).read_text().strip()


def _write(name: str, value: str) -> None:
    (KSM / name).write_text(value)


def _chosen(text: str) -> str:
    """What is set: of "[none] scan-time" none."""
    return text[text.index("[") + 1 : text.index("]")] if "[" in text else text


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def silent(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def no_pace(done: int) -> None:
    """As fast as it can."""
