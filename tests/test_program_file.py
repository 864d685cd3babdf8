"""What to type for a program whose command line does not say where it lies, or says anything."""

from __future__ import annotations

import pandas as pd
import pytest

from estimator.advice.plan import make_plan
from estimator.advice.program_file import program_file
from estimator.report.commands import opt_in_commands
from tests.systems import Area, Process, system

LIBRARY, LOADER = "/usr/lib/libc.so.6", "/usr/lib/ld-linux-x86-64.so.2"


@pytest.mark.parametrize(
    ("comm", "cmdline", "mapped", "expected"),
    [
        ("web", "/srv/web\0--port\0" + "80", ["/srv/web"], "/srv/web"),
        (
            "python3",
            "/srv/venv/bin/python3 app.py",
            ["/usr/bin/python3.11"],
            "/srv/venv/bin/python3",
        ),
        ("actor", "actor run", ["/bin/actor", LIBRARY], "/bin/actor"),
        ("actor", "./actor run", ["/srv/lab/actor", LIBRARY], "/srv/lab/actor"),
        ("actor", "lab/actor", [LIBRARY, "/srv/lab/actor"], "/srv/lab/actor"),
        ("nginx", "nginx: worker process", ["/usr/sbin/nginx", LIBRARY], "/usr/sbin/nginx"),
        ("x", "/usr/sbin/x: idle", ["/usr/sbin/x"], "/usr/sbin/x"),
        (
            "qemu-system-x86",
            "qemu-system-x86_64 -m 1G",
            ["/opt/qemu-system-x86_64"],
            "/opt/qemu-system-x86_64",
        ),
        ("renamed", "actor run", ["/bin/actor"], "/bin/actor"),  # prctl(PR_SET_NAME)
        ("actor", "a title of its own", ["/bin/actor"], "/bin/actor"),
        ("renamed", "a title", ["/bin/actor", LIBRARY, LOADER], "renamed"),
        ("memfd:x", "tool", ["/memfd:x (deleted)"], "memfd:x"),
        ("actor", None, ["[heap]", "", "/bin/actor"], "/bin/actor"),
        ("actor", None, [], "actor"),
    ],
)
def test_the_file_to_start(
    comm: str, cmdline: str | None, mapped: list[str], expected: str
) -> None:
    process = pd.Series({"comm": comm, "cmdline": cmdline}, dtype=object)
    assert program_file(process, pd.Series(mapped, dtype=object)) == expected


def test_it_is_looked_for_in_the_vmas_of_its_own_process() -> None:
    data = list(range(1, 400))
    snapshot = system(
        [
            Process("first", [Area([1_000], name="/opt/actor")], cmdline="first"),
            *(
                Process(
                    "actor", [Area(data), Area([2_000 + n], name="/bin/actor")], cmdline="actor x"
                )
                for n in range(2)
            ),
        ]
    )
    plan = make_plan(snapshot)
    assert plan.lines["program"].tolist() == ["/bin/actor"]
    (block,) = opt_in_commands(plan)
    assert " /bin/actor ARGUMENTS..." in block
    assert "actor x" not in block
