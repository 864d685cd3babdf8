"""What the README tells to type is typed; where it points to, there is something."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from estimator.cli import cli
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import fork_server

REPO = Path(__file__).parents[1]
TEXT = (REPO / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The command lines in blocks and between backticks, each up to its pipe."""
    lines = [line.removeprefix("$ ") for _, block in BLOCKS for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S))
    found = []
    for line in lines:
        plain = line.replace('"$(command -v ksm-estimator)"', "ksm-estimator")
        for part in plain.split(" | "):
            match = re.match(r"(?:ssh \w+ )?(?:sudo )?ksm-estimator (.+)", part)
            if match:
                found.append(re.sub(r"[][]", "", match[1].replace("TARGET", "--procfs")))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_such(command: str) -> None:
    name, *arguments = shlex.split(command)
    program = click.Context(cli, info_name="ksm-estimator", **cli.context_settings)
    cli.commands[name].make_context(name, arguments, parent=program)


def test_most_of_them_were_found() -> None:
    assert len(commands()) > 20
    assert {command.split()[0] for command in commands()} == set(cli.commands)


@pytest.fixture
def beside_web1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(fork_server(), tmp_path / "web1.ksm")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_web1")
def test_what_asks_a_snapshot_is_answered() -> None:
    asked = [c for c in commands() if re.match(r"(predict|report|advise) web1\.ksm", c)]
    assert len(asked) >= 5
    for command in asked:
        done = estimator(*shlex.split(command))
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout, command


@pytest.mark.usefixtures("beside_web1")
def test_the_python_runs() -> None:
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert "prediction" in names


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        assert not path or (REPO / path).exists(), target
        assert path or anchor in anchors, target


def test_every_exit_code_has_its_row() -> None:
    table = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert table == ["0", "1", "2", "3", "4", "5", "6", "7", "130"]
