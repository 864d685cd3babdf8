"""Symbols by build-id, in the usual places and by debuginfod, where the kernel has none itself."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.conftest import findings, lab_kernel
from tests.lab.dumps import SERIES
from tests.lab.spoiled import without_own_symbols

pytestmark = pytest.mark.lab


@dataclass
class Debuginfod:
    """A server: where it is, and which paths it was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        return os.environ | {"DEBUGINFOD_URLS": self.url, "DEBUGINFOD_CACHE_PATH": str(cache)}


@contextmanager
def debuginfod(files: Mapping[str, Path], hang: bool = False) -> Iterator[Debuginfod]:
    """A debuginfod server with debug information, {build-id: file}. ``hang``: half-way."""
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            for build_id, path in files.items():
                if self.path == f"/buildid/{build_id}/debuginfo":
                    self.send_response(200)
                    self.send_header("Content-Length", str(path.stat().st_size))
                    self.end_headers()
                    with path.open("rb") as file:
                        if hang:
                            self.wfile.write(file.read(1 << 20))
                            done.wait()
                        else:
                            shutil.copyfileobj(file, self.wfile)
                    return
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server = Debuginfod(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            done.set()
            listener.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """Of debuginfod's client; a vmlinux is too big to be kept."""
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture(scope="module")
def core(moment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dump that does not say where the kernel's own symbols are."""
    path = tmp_path_factory.mktemp("symbols") / "elf"
    yield without_own_symbols(moment / "elf", path)
    path.unlink()


@pytest.fixture(scope="module")
def build_id(core: Path) -> str:
    _, found = findings("--core", core, environment=without_servers())
    facts = next(finding["facts"] for finding in found if finding["subject"] == "kernel")
    assert facts["release"] == lab_kernel(SERIES).release
    return facts["build_id"]


def without_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "DEBUGINFOD_URLS"}


def run(core: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "estimator", "run", "--json", "--core", str(core)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_debuginfod(core: Path, build_id: str, cache: Path) -> None:
    vmlinux = lab_kernel(SERIES).vmlinux
    with debuginfod({build_id: vmlinux}) as server:
        done = run(core, server.environment(cache))
        assert (done.returncode, done.stderr) == (0, "")
        code, found = findings("--core", core, environment=server.environment(cache))
    assert server.asked == [f"/buildid/{build_id}/debuginfo"]  # once: then it is in the cache
    expected = predict(collect_core(core, [vmlinux]), Policy())
    assert json.loads(done.stdout)["counters"] == expected.counters
    assert code == 0
    assert f"{cache / build_id}/debuginfo fits" in [finding["text"] for finding in found]


def test_no_server_is_named(core: Path, build_id: str) -> None:
    done = run(core, without_servers())
    assert (done.returncode, done.stdout) == (4, "")
    assert f"no debug information found for kernel {lab_kernel(SERIES).release}" in done.stderr
    assert f"(build-id {build_id})" in done.stderr
    assert "--symbols VMLINUX" in done.stderr
    assert "DEBUGINFOD_URLS" in done.stderr
    code, found = findings("--core", core, environment=without_servers())
    assert code == 4
    looked_for = [finding["text"] for finding in found if finding["subject"] == "looked for"]
    assert (
        f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug is not there" in looked_for
    )
    assert "no debuginfod server: DEBUGINFOD_URLS is not set" in looked_for


def test_a_server_without_this_kernel(core: Path, build_id: str, cache: Path) -> None:
    with debuginfod({}) as server:
        code, found = findings("--core", core, environment=server.environment(cache))
    assert server.asked == [f"/buildid/{build_id}/debuginfo"]
    assert code == 4
    assert f"{server.url} has none, or does not answer" in [finding["text"] for finding in found]


def test_a_server_with_another_kernel(core: Path, build_id: str, cache: Path) -> None:
    with debuginfod({build_id: lab_kernel("6.1").vmlinux}) as server:
        done = run(core, server.environment(cache))
    assert (done.returncode, done.stdout) == (4, "")
    assert f"found by build-id {build_id}, but is of another" in done.stderr


def test_a_download_shows_how_far_it_is_and_can_be_interrupted(
    core: Path, build_id: str, cache: Path
) -> None:
    """On a terminal; nothing of it stays that could be taken for an answer of the server."""
    terminal, ours = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "estimator", "run", "--core", str(core)]
    with (
        debuginfod({build_id: lab_kernel(SERIES).vmlinux}, hang=True) as server,
        subprocess.Popen(
            command,
            env=server.environment(cache) | {"DEBUGINFOD_TIMEOUT": "6"},  # 90: until it says so
            stdout=subprocess.DEVNULL,
            stderr=ours,
        ) as process,
    ):
        os.close(ours)
        shown = b""
        while b"MiB)" not in shown:  # how much there is so far
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # how a terminal ends
            while data := os.read(terminal, 4096):
                shown += data
        assert process.wait() == 130
    os.close(terminal)
    assert b"Downloading kernel debug info" in shown
    assert shown.endswith(b"ksm-estimator: interrupted\r\n")
    with debuginfod({build_id: lab_kernel(SERIES).vmlinux}) as server:
        assert run(core, server.environment(cache)).returncode == 0


PLACES = (
    ("/usr/lib/debug", "/usr/lib/debug/.build-id/{first}/{rest}.debug"),
    ("/usr/lib/debug", "/usr/lib/debug/boot/vmlinux-{release}"),
    ("/usr/lib/debug", "/usr/lib/debug/lib/modules/{release}/vmlinux"),
    ("/lib/modules", "/lib/modules/{release}/build/vmlinux"),
    ("/lib/modules", "/lib/modules/{release}/vmlinux"),
    ("/boot", "/boot/vmlinux-{release}"),
)


def check_with(core: Path, vmlinux: Path, mount: str, place: str) -> tuple[int, str]:
    """``check`` where ``vmlinux`` is in ``place``: only for that process, nothing is installed."""
    script = (
        'mkdir -p "$1" && mount -t tmpfs tmpfs "$1" && mkdir -p "$(dirname "$2")" '
        '&& ln -s "$3" "$2" && shift 3 && exec "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", mount, place, str(vmlinux)]
    command += [sys.executable, "-m", "estimator", "check", "--core", str(core)]
    done = subprocess.run(command, env=without_servers(), capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(("mount", "place"), PLACES)
def test_usual_places(mount: str, place: str, core: Path, build_id: str) -> None:
    kernel = lab_kernel(SERIES)
    place = place.format(release=kernel.release, first=build_id[:2], rest=build_id[2:])
    code, output = check_with(core, kernel.vmlinux, mount, place)
    assert code == 0
    assert "fits" in output


@pytest.mark.parametrize(("mount", "place"), PLACES)
def test_another_vmlinux_in_a_usual_place(
    mount: str, place: str, core: Path, build_id: str
) -> None:
    place = place.format(release=lab_kernel(SERIES).release, first=build_id[:2], rest=build_id[2:])
    code, output = check_with(core, lab_kernel("6.1").vmlinux, mount, place)
    assert code == 4
    assert f"{place} is there, but does not fit" in output
