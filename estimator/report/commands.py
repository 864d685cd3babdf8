"""A plan as what a person would type."""

from __future__ import annotations

import shlex
from typing import Any

from estimator.advice.host import Host
from estimator.advice.plan import Plan
from estimator.advice.schedule import Schedule
from estimator.snapshot.names import unit_of
from estimator.units import count, human_bytes, plural, printable

_MOST_PIDS = 5

LAUNCHER = (
    "python3 -c 'import ctypes as c,os,sys; n=c.c_ulong; "
    "c.CDLL(None,use_errno=True).prctl(67,n(1),n(0),n(0),n(0)) "
    "and sys.exit(os.strerror(c.get_errno())); os.execvp(sys.argv[1],sys.argv[1:])'"
)
"""prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0), then exec: to be put before a program and its arguments.

All five arguments are given as unsigned long: the kernel refuses others than 0 after the second. It
asks for no capability (kernel/sys.c).
"""

_JOIN_LINES = r"sed -n ':a;/\\$/{N;s/[[:space:]]*\\\n[[:space:]]*/ /;ba};s/^ExecStart=//p'"
"""The values of ExecStart=, each on one line: in a unit a backslash continues a line."""


def opt_in_commands(plan: Plan) -> list[str]:
    """The lines of a plan as blocks of text, in the same order; empty for what is on already.

    Shell commands for systemd units and programs; what to set for virtual machines; a call to add
    for VMAs, which only a program's own code can opt in.
    """
    return [_block(line, plan.host) for line in plan.lines.to_dict("records")]


def settings_commands(schedule: Schedule) -> str:
    """Set the scan rate and turn KSM on, as shell commands."""
    values: dict[str, object] = {}
    if schedule.advisor:
        values["advisor_mode"] = "none"
    proposed = schedule.proposed.most
    if proposed.sleep_millisecs != schedule.first.most.sleep_millisecs:
        values["sleep_millisecs"] = proposed.sleep_millisecs
    values["pages_to_scan"] = proposed.pages_to_scan
    if not schedule.running:
        values["run"] = 1
    return "\n".join(f"echo {v} > /sys/kernel/mm/ksm/{name}" for name, v in values.items())


def undo_commands(schedule: Schedule, plan: Plan) -> str:
    """Take back what ``settings_commands`` sets and the drop-ins of ``plan``, as in a shell."""
    advisor_runs = plan.everything.snapshot.info["ksm"].get("advisor_mode") == 1
    lines = ["echo 2 > /sys/kernel/mm/ksm/run", *_as_before(schedule, advisor_runs=advisor_runs)]
    units = plan.to_do[plan.to_do["means"] == "unit"]
    for cgroup in units["cgroup"]:
        target, control = _drop_in_place(str(cgroup))
        unit = shlex.quote(printable(unit_of(str(cgroup))))
        lines.append(f"rm {target}/ksm.conf && {control} daemon-reload && {control} restart {unit}")
    return "\n".join(lines)


def _as_before(schedule: Schedule, *, advisor_runs: bool) -> list[str]:
    """The settings of the snapshot, where ``settings_commands`` has others."""
    before = schedule.first.most
    values: dict[str, object] = {"pages_to_scan": before.pages_to_scan}
    if schedule.proposed.most.sleep_millisecs != before.sleep_millisecs:
        values["sleep_millisecs"] = before.sleep_millisecs
    if advisor_runs:
        values["advisor_mode"] = "scan-time"
    return [f"echo {value} > /sys/kernel/mm/ksm/{name}" for name, value in values.items()]


def systemd_note(plan: Plan) -> str:
    """What to know of systemd before its units are changed; empty if there is none."""
    if "unit" not in set(plan.to_do["means"]):
        return ""
    if not plan.host.exec_keeps:
        return (
            "Kernels of kernel.org before 6.7 lose at exec what systemd has set: MemoryKSM= helps "
            "only where the distribution took in 3c6f33b7273a."
        )
    version = plan.host.systemd_version
    if version is None:
        return (
            "MemoryKSM= needs systemd 256: 254 and 255 make the prctl with arguments missing, and "
            "the service fails to start (systemd#31683). systemctl --version tells."
        )
    if not plan.host.memory_ksm_fails:
        return ""
    why = (
        "does not know MemoryKSM= (254)"
        if version < 254
        else "may fail to start a service that has MemoryKSM= (systemd#31683, mended in 256)"
    )
    return (
        f"systemd {version} runs here: it {why}. So the service opts in by a line of Python before "
        "its program, which needs no right of its own."
    )


def _block(line: dict[Any, Any], host: Host) -> str:
    if line["means"] == "on":
        return ""
    who = f"{printable(line['comm'])} in {printable(unit_of(line['cgroup']))}"
    whom = f"{who} ({_pids(line['pids'])})"
    if line["means"] == "vm":
        return _machine(line)
    if line["means"] == "vma":
        name = printable(line["name"])
        return (
            f"/* {_comment(whom)}:\n"
            f"   {plural(line['vmas'], 'VMA')} {_comment(name)}, "
            f"{human_bytes(line['mapped_bytes'])}, the first at {line['address']:#x} */\n"
            "madvise(start, length, MADV_MERGEABLE);"
        )
    if line["means"] == "unit":
        return _drop_in(line["cgroup"], by_launcher=host.memory_ksm_fails)
    if not host.exec_keeps:
        return (
            f"/* in {_comment(whom)}, itself: before 6.7 it is lost at exec */\n"
            "prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);"
        )
    command = f"{shlex.quote(printable(line['program']))} ARGUMENTS..."
    service = f"# or as a service: systemd-run -p MemoryKSM=yes {command}\n"
    return (
        f"# {whom}: start it so, as whatever user\n"
        f"{LAUNCHER} {command}\n"
        f"{service if host.memory_ksm_works else ''}"
        "# or in its source: prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);"
    )


def _machine(line: dict[Any, Any]) -> str:
    name = printable(line["comm"])
    about = f"# {name} ({_pids(line['pids'])}), {human_bytes(line['mapped_bytes'])} of guest memory"
    if line["by_libvirt"]:
        return (
            f"{about}: take <nosharepages/> out of <memoryBacking>, then start the machine anew\n"
            f"virsh edit {shlex.quote(name)}"
        )
    return f"{about}: QEMU offers it, unless told not to (mem-merge=off)\n-machine mem-merge=on"


def _drop_in_place(cgroup: str) -> tuple[str, str]:
    """The directory of a unit's drop-ins, quoted, and its systemctl."""
    unit = printable(unit_of(cgroup))
    user = "/user@" in cgroup.rpartition("/")[0]
    directory = "~/.config/systemd/user/" if user else "/etc/systemd/system/"
    return directory + shlex.quote(f"{unit}.d"), "systemctl --user" if user else "systemctl"


def _drop_in(cgroup: str, *, by_launcher: bool) -> str:
    unit = printable(unit_of(cgroup))
    target, control = _drop_in_place(cgroup)
    lines = [f"mkdir -p {target}"]
    if by_launcher:
        lines += [
            f"start=$({control} cat {shlex.quote(unit)} | {_JOIN_LINES} | tail -n 1)",
            """how=$(echo "$start" | sed 's/[^-:+!].*//')""",
            f"cat > {target}/ksm.conf <<END",
            "[Service]",
            "ExecStart=",
            f'ExecStart=$how/usr/bin/{LAUNCHER} ${{start#"$how"}}',
            "END",
        ]
    else:
        lines.append(f"printf '[Service]\\nMemoryKSM=yes\\n' > {target}/ksm.conf")
    lines.append(f"{control} daemon-reload && {control} restart {shlex.quote(unit)}")
    return "\n".join(lines)


def _pids(pids: list[int]) -> str:
    shown = ", ".join(str(pid) for pid in pids[:_MOST_PIDS])
    more = f" and {count(len(pids) - _MOST_PIDS)} more" if len(pids) > _MOST_PIDS else ""
    return f"pid {shown}{more}"


def _comment(text: str) -> str:
    """``text`` inside a C comment, which it can't end."""
    return text.replace("*/", "* /")
