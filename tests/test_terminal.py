"""What processes and dumps call themselves never drives a terminal, nor gets into a command."""

from __future__ import annotations

import io
import json
import struct
import unicodedata
from pathlib import Path

import pytest

from estimator.kernel.symbol_hints import hint_elsewhere, hint_here
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.html import fragment
from estimator.report.notebook import show_prediction
from estimator.report.tables import make_console
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, system

EVIL = "\x1b]0;pwn\x07\x1b[31m\x9b2J\u202e"


def assert_harmless(text: str) -> None:
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert not odd, text


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "evil.ksm"
    areas = [Area([1, 1, 2, 3], name=f"[anon:{EVIL}]"), Area([None], name=EVIL)]
    processes = [Process(f"{EVIL}{n}", areas, cgroup=f"/a{EVIL}.service") for n in range(3)]
    made = system(processes)
    made.info["host"] = made.info["kernel"]["release"] = EVIL
    write_snapshot(made, path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--comm", "x"),
        ("predict", "--cgroup", "/b"),
        ("--debug", "predict", "--cgroup", "/b"),
        ("predict", "--comm", EVIL),
        ("predict", "--max-page-sharing", EVIL),
        (f"predict{EVIL}",),
        ("predict", "a", EVIL),
        ("predict",),
        ("report",),
        ("advise",),
        ("predict", "--json"),
        ("advise", "--json"),
    ],
)
def test_names_in_answers_and_errors(snapshot: Path, arguments: tuple[str, ...]) -> None:
    done = estimator(*arguments, snapshot)
    assert_harmless(done.stdout + done.stderr)
    assert "internal error" not in done.stderr
    assert "pwn" in done.stdout + done.stderr


def test_names_in_html(snapshot: Path, tmp_path: Path) -> None:
    assert (
        estimator(
            "report", snapshot, "--min-coverage", "0", "--html", tmp_path / "a.html"
        ).returncode
        == 0
    )
    page = (tmp_path / "a.html").read_text()
    assert "pwn" in page
    assert_harmless(page[: page.index("<style>")] + page[page.index("<body") :].replace("\t", ""))


def test_a_console_lets_no_text_drive_it() -> None:
    file = io.StringIO()
    make_console(file).print(f"a{EVIL}\nb")
    assert file.getvalue().count("\n") == 2
    assert_harmless(file.getvalue())


def test_a_report_in_a_notebook() -> None:
    made = system([Process(EVIL, [Area([1, 1])])])
    shown = show_prediction(made, predict(made, Policy()))
    assert_harmless(repr(shown))
    assert EVIL not in fragment(shown.sections)


def core_of(release: str, more: str = "") -> bytes:
    """An ELF core with one page of RAM and the VMCOREINFO of a kernel ``release``."""
    text = f"OSRELEASE={release}\nPAGESIZE=4096\n{more}".encode()
    text += b"SYMBOL(swapper_pg_dir)=ffffffff82000000\nKERNELOFFSET=0\nNUMBER(phys_base)=0\n"
    name = b"VMCOREINFO\0"
    note = struct.pack("<III", len(name), len(text), 0) + name.ljust(12, b"\0")
    note += text + bytes(-len(text) % 4)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    notes = struct.pack("<IIQQQQQQ", 4, 0, 176, 0, 0, len(note), len(note), 4)
    ram = struct.pack("<IIQQQQQQ", 1, 7, 8192, 0xFFFF888000000000, 0, 4096, 4096, 4096)
    return (ident + header + notes + ram + note).ljust(8192, b"\0") + bytes(4096)


@pytest.mark.parametrize("release", [f"6.12{EVIL}-amd64", "6.12-amd64; curl x|sh #", "6.1 a.el9"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_the_release_of_a_dump(command: str, release: str, tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(core_of(release))
    done = estimator(command, "--core", tmp_path / "core")
    said = done.stdout + done.stderr
    assert done.returncode == 4, said
    assert_harmless(said)
    assert "internal error" not in said
    assert "apt-get" not in said
    assert "dnf" not in said
    assert "vmlinux with debug information of that build" in said


def test_check_as_json(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(core_of(EVIL))
    done = estimator("check", "--core", tmp_path / "core", "--json")
    assert_harmless(done.stdout)
    assert EVIL in "".join(finding["text"] for finding in json.loads(done.stdout)["findings"])


@pytest.mark.parametrize("release", ["6.1; reboot", "6.1\n", "", "6.1-$(reboot)-amd64", "é.el9"])
def test_no_command_for_what_is_no_release(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text("ID=debian\n")
    monkeypatch.setattr("estimator.kernel.symbol_hints._OS_RELEASE", tmp_path / "os-release")
    for hint in (hint_here(release), hint_elsewhere(release)):
        assert "linux-image" not in hint
        assert "kernel-core" not in hint
        assert not release or release not in hint
