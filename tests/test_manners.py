"""How the command behaves: what it accepts, what it says of it, and how it ends."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import fork_server


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "fork.ksm"
    write_snapshot(fork_server(), path)
    return path


def test_users_go_by_name(snapshot: Path) -> None:
    user = pwd.getpwuid(33).pw_name
    by_name, by_number = (
        estimator("predict", snapshot, "--json", "--uid", uid).stdout for uid in (user, "33")
    )
    assert by_name == by_number
    assert json.loads(by_name)["policy"]["uids"] == [33]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "missing argument 'SNAPSHOT'; see: ksm-estimator predict --help"),
        (["predict", "x", "--foo"], "no such option '--foo'; see: ksm-estimator predict --help"),
        (["frobnicate"], "no such command 'frobnicate'; see: ksm-estimator --help"),
        (["predict", "x", "--uid", "nobody at all"], "is no user of this machine"),
        (["collect", "--procfs"], "name the snapshot to make with -o NAME.ksm"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], said: str) -> None:
    done = estimator(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("ksm-estimator: ")
    assert said in done.stderr
    assert done.stderr.count(os.linesep) == 1


def test_no_command_at_all_shows_the_help() -> None:
    done = estimator()
    assert done.returncode == 2
    assert "Commands:" in done.stderr
