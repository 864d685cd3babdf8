"""What a plan says to type, by what runs on the host."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from estimator.advice.host import guest_memory, host_of, machine_names
from estimator.advice.plan import Plan, make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.report.commands import LAUNCHER, opt_in_commands, systemd_note, undo_commands
from estimator.report.plan_sections import plan_sections
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system

DATA = list(range(1, 201))
SYSTEMD = "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-{}.so"


def host(*processes: Process, systemd: int | None = None, release: str = "6.12.1") -> Snapshot:
    """``processes``, besides a systemd of this version, on this kernel."""
    init = [Process("systemd", [Area([9_000_000], name=SYSTEMD.format(systemd))], pid=1)]
    other = [Process("systemd", [Area([9_000_001], name=SYSTEMD.format(100))])]  # in a container
    snapshot = system([*(init if systemd else []), *other, *processes])
    kernel = snapshot.info["kernel"] | {"release": release}
    return replace(snapshot, info=snapshot.info | {"kernel": kernel})


def web(systemd: int | None = None, release: str = "6.12.1") -> Plan:
    service = Process("web", [Area(DATA)], cgroup="/system.slice/web.service")
    return make_plan(host(service, service, systemd=systemd, release=release))


def test_names_can_say_nothing_to_a_shell_or_a_terminal() -> None:
    snapshot = system(
        [
            Process("web", [Area(DATA)], cgroup="/system.slice/a b$(x).service"),
            Process(
                "evil\n*/ x\x1b[2J",
                [Area(DATA)],
                cgroup="/c.scope",
                cmdline="/x;reboot$(id) -pSECRET",
            ),
            Process(
                "desk",
                [Area(DATA)],
                cgroup="/user.slice/user-1000.slice/user@1000.service/app.slice/desk.service",
            ),
        ]
    )
    plan = make_plan(snapshot, share=1.0)
    text = "\n".join(sorted(opt_in_commands(plan)))
    assert "/etc/systemd/system/'a b$(x).service.d'" in text
    assert "systemctl restart 'a b$(x).service'" in text
    assert "~/.config/systemd/user/desk.service.d" in text
    assert "systemctl --user restart desk.service" in text
    assert f"{LAUNCHER} '/x;reboot$(id)' ARGUMENTS...\n" in text
    assert "SECRET" not in text
    assert "\x1b" not in text
    by_madvise = "\n".join(opt_in_commands(make_plan(snapshot, share=1.0, only=["vma"])))
    assert "madvise(start, length, MADV_MERGEABLE);" in by_madvise
    assert "1 VMA [heap], 800 KiB, the first at 0x7f00" in by_madvise
    assert by_madvise.count("*/") == 3


def test_the_launcher_opts_in_and_runs_the_program() -> None:
    if "ksm_merge_any" not in Path("/proc/self/ksm_stat").read_text():
        pytest.skip("this kernel does not say who opted in (6.16)")
    words = shlex.split(LAUNCHER)
    assert words[0] == "python3"
    done = subprocess.run(
        [sys.executable, *words[1:], "cat", "/proc/self/ksm_stat"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ksm_merge_any: yes" in done.stdout


@pytest.mark.parametrize(
    ("version", "by_launcher", "said"),
    [
        (None, False, "systemctl --version tells"),
        (252, True, "does not know MemoryKSM="),
        (255, True, "may fail to start a service"),
        (256, False, ""),
    ],
)
def test_the_trap_of_systemd_is_named_where_it_is(
    version: int | None, by_launcher: bool, said: str
) -> None:
    plan = web(version)
    assert plan.host.systemd_version == version
    (block,) = opt_in_commands(plan)
    assert ("MemoryKSM=yes" in block) is not by_launcher
    assert (LAUNCHER in block) is by_launcher
    note = systemd_note(plan)
    assert (said in note) if said else not note


def test_systemd_run_is_named_where_it_is_known_to_work() -> None:
    """It is where systemd has MemoryKSM= and the kernel keeps it at exec."""
    for version, named in ((None, False), (255, False), (257, True)):
        plan = make_plan(web(version).everything.snapshot, share=1.0, only=["program"])
        (block,) = opt_in_commands(plan)
        assert ("systemd-run -p MemoryKSM=yes" in block) is named


@pytest.mark.parametrize(
    ("start", "command"),
    [
        ("/usr/bin/web --port 80", "/usr/bin/{launcher} /usr/bin/web --port 80"),
        ("-/usr/bin/web", "-/usr/bin/{launcher} /usr/bin/web"),
        ("!!/usr/bin/web -x", "!!/usr/bin/{launcher} /usr/bin/web -x"),
        ("/usr/bin/web \\\n    --a 1 \\\n  --b", "/usr/bin/{launcher} /usr/bin/web --a 1 --b"),
    ],
)
def test_the_drop_in_for_an_older_systemd_keeps_how_the_service_starts(
    start: str, command: str, tmp_path: Path
) -> None:
    (block,) = opt_in_commands(web(252))
    unit, drop_in = tmp_path / "unit", tmp_path / "web.service.d/ksm.conf"
    unit.write_text(f"[Service]\nExecStart=/bin/early\nExecStart={start}\nUser=web\n")
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$1" != cat ] || cat {unit}\n')
    systemctl.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    lines = block.replace("/etc/systemd/system", str(tmp_path))
    subprocess.run(["sh", "-ec", lines], env={"PATH": path}, check=True)
    expected = command.format(launcher=LAUNCHER)
    assert drop_in.read_text() == f"[Service]\nExecStart=\nExecStart={expected}\n"


def test_what_was_typed_can_be_taken_back() -> None:
    snapshot = host(
        *(Process("web", [Area(DATA)], cgroup="/system.slice/web.service") for _ in range(2)),
        systemd=257,
    )
    ksm = snapshot.info["ksm"] | {"advisor_mode": 1, "pages_to_scan": 77}
    snapshot = replace(snapshot, info=snapshot.info | {"ksm": ksm})
    plan = make_plan(snapshot)
    assert undo_commands(schedule(snapshot, plan.prediction), plan).splitlines() == [
        "echo 2 > /sys/kernel/mm/ksm/run",
        "echo 77 > /sys/kernel/mm/ksm/pages_to_scan",
        "echo scan-time > /sys/kernel/mm/ksm/advisor_mode",
        "rm /etc/systemd/system/web.service.d/ksm.conf && systemctl daemon-reload "
        "&& systemctl restart web.service",
    ]


def test_before_6_7_the_opt_in_is_lost_at_exec() -> None:
    plan = web(256, release="6.6.30")
    assert plan.lines["means"].tolist() == ["program"]
    (block,) = opt_in_commands(plan)
    assert "itself: before 6.7 it is lost at exec" in block
    assert block.endswith("prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);")
    service = Process("web", [Area(DATA)], cgroup="/system.slice/web.service")
    asked = make_plan(host(service, service, release="6.6.30"), only=["unit"])
    assert "helps only where the distribution took in" in systemd_note(asked)


def qemu(name: str | None, mergeable: bool = False, libvirt: bool = False) -> Process:
    """A guest of 1 MiB, of which 800 KiB are mapped."""
    called = "" if name is None else f" -name {'guest=' if libvirt else ''}{name},debug-threads=on"
    memory = Area([*DATA, *[None] * 56], name="", mergeable=mergeable)
    return Process(
        "qemu-system-x86",
        [memory, Area([1, 2], name="[heap]")],
        cgroup=f"/machine.slice/machine-qemu-{name}.scope",
        cmdline=f"/usr/bin/qemu-system-x86_64{called} -m 1M -smp 2",
    )


def test_virtual_machines_go_by_their_names() -> None:
    snapshot = system([qemu("web1", libvirt=True), qemu("db1"), qemu(None), qemu("x"), qemu("x")])
    names = ["web1", "db1", "qemu-system-x86 1002", "qemu-system-x86 1003", "qemu-system-x86 1004"]
    assert machine_names(snapshot.processes).tolist() == names
    assert guest_memory(snapshot).tolist() == [True, False] * 5
    plan = make_plan(snapshot, share=1.0)
    assert set(plan.lines["means"]) == {"vm"}
    assert set(plan.lines["comm"]) == set(names)
    blocks = dict(zip(plan.lines["comm"], opt_in_commands(plan), strict=True))
    assert "<nosharepages/>" in blocks["web1"]
    assert blocks["web1"].endswith("virsh edit web1")
    assert blocks["db1"].endswith("-machine mem-merge=on")
    borders = assess(snapshot, plan.prediction).borders.set_index("border")
    assert borders.loc["virtual machine", "domains"] == 5


def test_machines_that_offer_their_memory_are_not_told_to() -> None:
    snapshot = system([qemu("web1", mergeable=True), qemu("db1", mergeable=True)])
    plan = make_plan(snapshot, share=1.0)
    assert plan.to_do.empty
    assert plan.lines["comm"].tolist() == ["web1", "db1"]
    assert plan.lines["opted_in"].all()


@pytest.mark.parametrize(
    ("memory", "mib"),
    [
        ("-m 1G", 1024),
        ("-m size=2048k,slots=2,maxmem=9G", 2),
        ("-m 512", 512),
        ('-object {"qom-type":"memory-backend-ram","id":"pc.ram","size":268435456}', 256),
        ("-object memory-backend-ram,id=ram0,size=64M", 64),
    ],
)
def test_guest_memory_is_as_large_as_the_command_line_says(memory: str, mib: int) -> None:
    machine = Process("kvm", [Area([1, 2], name=""), Area([3], name="")], cmdline=f"kvm {memory}")
    snapshot = system([machine])
    start = snapshot.vmas["start"]
    for size, large in ((mib << 20, True), ((mib << 20) - 4096, False)):
        vmas = snapshot.vmas.assign(end=start + size)
        assert guest_memory(replace(snapshot, vmas=vmas)).tolist() == [large] * 2


def test_ksmtuned_is_named() -> None:
    service = Process("web", [Area(DATA)], cgroup="/system.slice/web.service")
    snapshot = host(service, service, Process("ksmtuned", [Area([5])]))
    assert host_of(snapshot).ksmtuned
    plan = make_plan(snapshot)
    times = schedule(snapshot, plan.prediction)
    sections = plan_sections(snapshot, plan, times, assess(snapshot, plan.prediction))
    settings = next(section for section in sections if section.title == "Settings of ksmd")
    assert "ksmtuned runs here" in settings.bullets[-1]


def test_a_plan_that_costs_memory_is_none() -> None:
    """Two pages less, and one each for rmap_items, stable node and mm slots."""
    snapshot = host(Process("web", [Area([7, 7, 7])], cgroup="/system.slice/web.service"))
    plan = make_plan(snapshot)
    assert len(plan.to_do)
    assert plan.prediction.physical["net_bytes_saved"] <= 0
    first, *more = plan_sections(
        snapshot, plan, schedule(snapshot, plan.prediction), assess(snapshot, plan.prediction)
    )
    assert "There is nothing to propose." in first.note
    assert more == []
