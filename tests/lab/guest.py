"""A guest: a kernel of the lab in QEMU, controlled by a shell on a virtio port and by QMP."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.apt import LabError
from tests.lab.initramfs import INIT, build_initramfs
from tests.lab.kernels import Kernel, say

MODULES = ("virtio_pci", "virtio_console", "qemu_fw_cfg")  # the last: vmcoreinfo for dumps
VIRTIO_PORT = ("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell")
SECOND_SERIAL_PORT = ("-device", "isa-serial,chardev=shell")  # slower, but its driver is built in
MACHINES = {"x86_64": "", "aarch64": "virt"}
CONSOLES = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
KERNEL = "loglevel=4 panic=-1 numa=on"
BOOT_SECONDS = 240.0  # takes some seconds; a busy machine needs ten times as long
BOOTS = 3
LOST_TO_EMULATION = "Oops: int3"
"""What the console shows where a CPU ran into a breakpoint of text_poke_bp_batch() after it was
taken out again: QEMU translates code while another CPU writes it. Rare, and at any time."""
LOST_AT_BOOT = (LOST_TO_EMULATION, "timeout during 'boot'", "IO-APIC + timer doesn't work")
COMMAND_SECONDS = 300.0  # only what hangs should end so


class States:
    """Guests that have just booted, in files: booting again takes most of a workload's time.

    Of this process only: the next one's kernels lie elsewhere in memory again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._directory = tempfile.TemporaryDirectory(prefix="ksm-lab-states.")
        self._paths: dict[str, Path] = {}  # the one used last is the last

    def get(self, key: str) -> Path | None:
        """The file of a guest with that command line."""
        path = self._paths.pop(key, None)
        if path is not None:
            self._paths[key] = path
        return path

    def new_path(self) -> Path:
        """Where to save one."""
        return Path(self._directory.name) / str(time.monotonic_ns())

    def add(self, key: str, path: Path) -> None:
        """``path`` has one now; what was not used for longest goes."""
        if len(self._paths) >= self._most:
            self.drop(next(iter(self._paths)))
        self._paths[key] = path

    def drop(self, key: str) -> None:
        """Forget that one."""
        self._paths.pop(key).unlink()


class Guest:
    """A running guest, killed when its context ends.

    ``memory_mib`` is divided evenly among ``nodes`` NUMA nodes. ``modules`` are loaded at boot
    (after those that control and dump need). ``machine``: more of QEMU's -machine. ``files`` appear
    in the guest: {path in guest: source}. ``arguments`` go to the kernel's command line, ``qemu``
    to QEMU's.
    ``states``: guests that booted before, of which one like this is taken up where it stood.
    ``init`` is the script that boots, and ``boot_seconds`` what it may take.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        memory_mib: int = 256,
        nodes: int = 1,
        cpu: str = "max",
        machine: str = "",
        modules: Iterable[str] = (),
        files: Mapping[str, Path] | None = None,
        arguments: Sequence[str] = (),
        qemu: Sequence[str] = (),
        states: States | None = None,
        init: str = INIT,
        boot_seconds: float = BOOT_SECONDS,
    ) -> None:
        self.kernel = kernel
        self._boot_seconds = boot_seconds
        self._states = states
        self._directory = Path(tempfile.mkdtemp(prefix="ksm-lab."))
        initramfs = self._directory / "initramfs"
        modules = (*MODULES, *modules)
        build_initramfs(kernel, initramfs, modules=modules, files=files or {}, init=init)
        self._command = [
            *("setpriv", "--pdeathsig", "KILL"),  # it must not outlive this process
            *(f"qemu-system-{kernel.machine}", "-nodefaults", "-no-user-config"),
            *("-display", "none"),
            # this machine's own KSM has nothing to do with it
            *(
                "-machine",
                ",".join(filter(None, (MACHINES[kernel.machine], "mem-merge=off", machine))),
            ),
            *("-cpu", _cpu(kernel, cpu)),
            *("-accel", "tcg,thread=multi", "-smp", "2", "-m", f"{memory_mib}M"),
            *(_numa(memory_mib, nodes) if nodes > 1 else ()),
            *("-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs), "-no-reboot"),
            *("-append", " ".join((f"console={CONSOLES[kernel.machine]}", KERNEL, *arguments))),
            *("-serial", f"file:{self._directory / 'console'}"),
            *("-chardev", f"socket,id=shell,path={self._directory / 'shell'},server=on,wait=off"),
            *(VIRTIO_PORT if kernel.has_virtio else SECOND_SERIAL_PORT),
            *("-qmp", f"unix:{self._directory / 'qmp'},server=on,wait=off"),
            *("-device", "vmcoreinfo", *qemu),
        ]
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._shell = self._qmp = socket.socket(socket.AF_UNIX)
        self._received = bytearray()

    def __enter__(self) -> Guest:
        """Boot, and wait for the shell.

        Once in some hundred boots QEMU's emulation shows a CPU the breakpoint that the kernel sets
        for a moment while it patches its own code (int3), and the kernel panics; sometimes a timer
        never fires, and it hangs or panics: boot again.
        """
        try:
            if self._resume():
                return self
            for attempt in range(1, BOOTS + 1):
                try:
                    self._boot(self._boot_seconds / (1 if attempt == BOOTS else 2))
                    break
                except LabError as error:
                    lost = next((sign for sign in LOST_AT_BOOT if sign in str(error)), None)
                    if attempt == BOOTS or lost is None:
                        raise
                    say(f"{self.kernel.release}: emulation went wrong at boot ({lost}), again")
                    self._stop()
            if self._states is not None:
                path = self._states.new_path()
                self._save(path)
                self._states.add(self._key(), path)
        except BaseException:
            self.close()
            raise
        return self

    def _key(self) -> str:
        command = shlex.join(self._command).replace(str(self._directory), "")
        initramfs = hashlib.sha256((self._directory / "initramfs").read_bytes())
        return f"{command} {initramfs.hexdigest()}"

    def _resume(self) -> bool:
        """Whether a guest that booted before could be taken up."""
        if self._states is None or (state := self._states.get(self._key())) is None:
            return False
        try:
            self._boot(BOOT_SECONDS / 2, "-incoming", f"exec:cat {shlex.quote(str(state))}")
        except LabError as error:
            say(f"{self.kernel.release}: a saved guest could not be taken up: {error}")
            self._stop()
            self._states.drop(self._key())
            return False
        return True

    def _save(self, path: Path) -> None:
        """Save the guest as it is; it runs on."""
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=f"exec:cat > {shlex.quote(str(path))}")
        deadline = time.monotonic() + COMMAND_SECONDS
        while self.qmp("query-status")["status"] != "postmigrate":  # after "completed"
            if self.qmp("query-migrate").get("status") in ("failed", "cancelled"):
                raise self._error("the guest could not be saved")
            self._check(deadline, "saving the guest")
            time.sleep(0.05)
        self.qmp("cont")

    def _boot(self, seconds: float, *more: str) -> None:
        with (self._directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._shell = socket.socket(socket.AF_UNIX)
        self._qmp = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + seconds
        self._connect(self._qmp, "qmp", deadline)
        self._connect(self._shell, "shell", deadline)
        self._qmp_reader = self._qmp.makefile("rb")
        self._qmp_reader.readline()
        self.qmp("qmp_capabilities")
        self._wait_for_shell(deadline)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill QEMU and remove everything of this guest but its dumps."""
        self._stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._shell.close()
        self._qmp.close()
        self._received.clear()
        for name in ("shell", "qmp"):
            (self._directory / name).unlink(missing_ok=True)

    def run(self, command: str, *, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command in the guest; its output. LabError if it fails or takes too long."""
        status, output = self.run_raw(command, timeout_seconds=timeout_seconds)
        text = output.decode(errors="replace")
        if status:
            raise self._error(f"guest: status {status} from {command!r}: {text[-2000:]}")
        return text

    def run_raw(self, command: str, *, timeout_seconds: float) -> tuple[int, bytes]:
        """Run a shell command in the guest; its exit status, and stdout and stderr mixed."""
        mark = f"--end-{next(self._numbers)}--"
        line = f"{{ {command}\n}} </dev/null 2>&1; echo {mark} $?\n"
        with contextlib.suppress(ConnectionError):  # what has ended is seen below
            self._shell.sendall(line.encode())
        deadline = time.monotonic() + timeout_seconds
        end = mark.encode() + b" "
        searched = 0
        while (start := self._received.find(end, searched)) < 0 or b"\n" not in self._received[
            start:
        ]:
            searched = start if start >= 0 else max(0, len(self._received) - len(end))
            self._receive(deadline, command)
        stop = self._received.index(b"\n", start)
        status = int(self._received[start + len(end) : stop])
        output = bytes(self._received[:start])
        del self._received[: stop + 1]
        return status, output

    def run_to_its_end(self, command: str, *, timeout_seconds: float) -> None:
        """Run a shell command that ends the guest; LabError if it goes on for too long."""
        self._shell.sendall(f"{command}\n".encode())
        deadline = time.monotonic() + timeout_seconds
        while self._process is not None and self._process.poll() is None:
            if time.monotonic() > deadline:
                raise self._error(f"timeout during {command!r}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Of QEMU, while it runs."""
        assert self._process is not None
        return self._process.pid

    def write_file(self, path: str, content: str) -> None:
        """Write a file in the guest (sysfs and procfs too); LabError if the kernel refuses."""
        self.run(f"printf %s {shlex.quote(content)} > {shlex.quote(path)}")

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command; what it returns."""
        request = {"execute": command, "arguments": arguments}
        with contextlib.suppress(ConnectionError):  # what has ended is told below
            self._qmp.sendall(json.dumps(request).encode())
            while line := self._qmp_reader.readline():
                reply = json.loads(line)
                if "error" in reply:
                    raise self._error(f"QMP {command}: {reply['error']['desc']}")
                if "return" in reply:
                    return reply["return"]
        raise self._error(f"QMP {command}: QEMU is gone")

    def dump(self, destination: Path) -> None:
        """Write all memory of the guest to an ELF vmcore; the guest is paused meanwhile."""
        destination.unlink(missing_ok=True)
        self.qmp("dump-guest-memory", paging=False, protocol=f"file:{destination.absolute()}")

    def _connect(self, connection: socket.socket, name: str, deadline: float) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(self._directory / name))
                return
            self._check(deadline, f"connecting to {name}")
            time.sleep(0.02)

    def _wait_for_shell(self, deadline: float) -> None:
        """Ask until the guest answers: what is sent before the port is open may be lost."""
        while b"ready\n" not in self._received:
            if select.select([], [self._shell], [], 0)[1]:  # else a guest that hangs stops us too
                self._shell.sendall(b"\necho ready\n")
            if select.select([self._shell], [], [], 0.2)[0]:
                self._read("boot")
            self._check(deadline, "boot")
        self.run("true")

    def _receive(self, deadline: float, what: str) -> None:
        while not select.select([self._shell], [], [], 0.2)[0]:
            self._check(deadline, what)
        self._read(what)

    def _read(self, what: str) -> None:
        received = b""
        with contextlib.suppress(ConnectionError):
            received = self._shell.recv(1 << 20)
        if not received:
            raise self._error(f"QEMU ended during {what!r}")
        self._received += received

    def _check(self, deadline: float, what: str) -> None:
        if self._process is None or self._process.poll() is not None:
            raise self._error(f"QEMU ended during {what!r}")
        if time.monotonic() > deadline:
            raise self._error(f"timeout during {what!r}")

    def _error(self, message: str) -> LabError:
        tails = []
        for name in ("qemu.log", "console"):
            with contextlib.suppress(OSError):
                tail = (self._directory / name).read_text(errors="replace")[-16000:]
                tails.append(f"--- {name}\n{tail}")
        return LabError("\n".join([f"{self.kernel.release}: {message}", *tails]))


def _cpu(kernel: Kernel, cpu: str) -> str:
    """QEMU's argument: signing pointers as the architecture says takes most of the time."""
    return f"{cpu},pauth-impdef=on" if kernel.machine == "aarch64" and cpu == "max" else cpu


def _numa(memory_mib: int, nodes: int) -> list[str]:
    """QEMU arguments for nodes of equal size; CPU 0 and 1 are on the first two."""
    size = memory_mib // nodes
    arguments = []
    for node in range(nodes):
        cpus = f",cpus={node}" if node < 2 else ""
        arguments += ["-object", f"memory-backend-ram,id=ram{node},size={size}M"]
        arguments += ["-numa", f"node,nodeid={node},memdev=ram{node}{cpus}"]
    return arguments
