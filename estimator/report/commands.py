"""A plan as what a person would type."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd

from estimator.advice.plan import systemd_service
from estimator.advice.schedule import Schedule
from estimator.report.units import printable


def opt_in_commands(lines: pd.DataFrame) -> list[str]:
    """The lines of a plan as blocks of text, in the same order.

    Shell commands for systemd units; a call to add for programs and VMAs, which only their own
    code can opt in.
    """
    return [_block(line) for line in lines.to_dict("records")]


def settings_commands(schedule: Schedule) -> str:
    """Set the scan rate and turn KSM on, as shell commands."""
    values: dict[str, object] = {}
    if schedule.advisor and not schedule.advisor_too_eager:
        values["advisor_mode"] = "scan-time"
        values["advisor_target_scan_time"] = schedule.advisor.target_scan_time
    elif schedule.proposed:
        if schedule.advisor:
            values["advisor_mode"] = "none"
        values["pages_to_scan"] = schedule.proposed.pages_to_scan
    values["run"] = 1
    return "\n".join(f"echo {v} > /sys/kernel/mm/ksm/{name}" for name, v in values.items())


def _block(line: dict[Any, Any]) -> str:
    if line["means"] == "unit":
        return _drop_in(line["cgroup"])
    where = f"in {printable(line['comm'])} ({printable(line['cgroup'])})"
    if line["means"] == "program":
        return (
            f"/* {_comment(where)}, or in its parent before exec,\n"
            "   or without a change to it: systemd-run -p MemoryKSM=yes ... */\n"
            "prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);"
        )
    name = _comment(printable(line["name"]))
    return f"/* {_comment(where)}, for {name} */\nmadvise(start, length, MADV_MERGEABLE);"


def _drop_in(cgroup: str) -> str:
    unit = printable(systemd_service(cgroup) or "")
    user = "/user@" in cgroup.rpartition("/")[0]
    directory = "~/.config/systemd/user/" if user else "/etc/systemd/system/"
    control = "systemctl --user" if user else "systemctl"
    target = directory + shlex.quote(f"{unit}.d")
    return "\n".join(
        [
            f"mkdir -p {target}",
            f"printf '[Service]\\nMemoryKSM=yes\\n' > {target}/ksm.conf",
            f"{control} daemon-reload && {control} restart {shlex.quote(unit)}",
        ]
    )


def _comment(text: str) -> str:
    """``text`` inside a C comment, which it can't end."""
    return text.replace("*/", "* /")
