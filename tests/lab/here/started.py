"""Programs that run as children, opted in before they start; what they need; how they are asked."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from estimator.report.commands import LAUNCHER
from tests.lab.apt import LabError

READY_SECONDS = 60.0


@dataclass
class Started:
    """The programs that run, and the directory of their files; killed when the context ends.

    ``owner``: the name of the program by pid, of each that was started opted in.
    """

    place: Path
    owner: dict[int, str] = field(default_factory=dict)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.signal(signal.SIGKILL)
        for process in self._children:
            process.kill()
            process.wait()

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start ``command`` as ``advise`` says, opted in, as a part of the program ``name``."""
        process = self.client(*shlex.split(LAUNCHER), *command)
        self.owner[process.pid] = name
        return process

    def client(self, *command: str) -> subprocess.Popen[bytes]:
        """Start ``command``, not opted in; its output goes to a file."""
        with (self.place / f"log-{len(self._children)}").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.place
            )
        self._children.append(process)
        return process

    def signal(self, number: signal.Signals) -> None:
        """Send it to all that are opted in, until none is there that has not got it."""
        told: set[int] = set()
        while new := self.programs().keys() - told:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= new

    def programs(self) -> dict[int, str]:
        """The name of the program by pid, descendants too."""
        found: dict[int, str] = {}
        new = dict(self.owner)
        while new:
            found |= new
            new = {child: name for pid, name in new.items() for child in _children_of(pid)}
        return found

    def stopped(self) -> bool:
        """Whether every task of them is."""
        return all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] in "TZ"
            for pid in self.programs()
            for task in Path(f"/proc/{pid}/task").iterdir()
        )

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait; raise LabError with the end of all output if that takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                logs = (path.read_text(errors="replace")[-300:] for path in self._logs())
                raise LabError(f"{what} does not get ready: {' | '.join(filter(None, logs))}")
            time.sleep(0.05)

    def said(self, text: str) -> int:
        """How many of them have written ``text``."""
        return sum(text in path.read_text(errors="replace") for path in self._logs())

    def rounds(self) -> int:
        """How often the load has asked all of them."""
        return sum(path.read_text(errors="replace").count("round\n") for path in self._logs())

    def ask(self, name: str, request: bytes, times: int = 1) -> None:
        """Send ``request`` to the socket ``name`` and wait for an answer."""
        path = self.place / name
        self.until(lambda: _answers(path), name)
        for _ in range(times):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(READY_SECONDS)
                connection.connect(str(path))
                connection.sendall(request)
                if not connection.recv(1 << 16):
                    raise LabError(f"{name} does not answer")

    def _logs(self) -> list[Path]:
        return sorted(self.place.glob("log-*"))


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    except OSError:
        return False
    return True


def _children_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
