"""The man page, the completions and the reference that come with the program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from estimator.cli import cli
from scripts.shared_files import SHARE, shared_files
from tests.commands import estimator


def test_they_are_what_the_command_is_now() -> None:
    """If not: python -m scripts.shared_files."""
    files = {str(path.relative_to(SHARE)): path for path in SHARE.rglob("*") if path.is_file()}
    made = shared_files()
    assert files.keys() == made.keys()
    for name, text in made.items():
        assert files[name].read_text() == text, name


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff to read the man page with")
def test_the_man_page_is_readable_and_has_all() -> None:
    page = SHARE / "man/man1/ksm-estimator.1"
    command = ["groff", "-man", "-ww", "-Tascii", "-P-cbou", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for name, each in cli.commands.items():
        assert f"\n   {name} " in done.stdout
        for option in each.params:
            assert not isinstance(option, click.Option) or max(option.opts) in done.stdout
    assert "130    interrupted" in done.stdout


def test_bash_takes_its_completion() -> None:
    script = SHARE / "bash-completion/completions/ksm-estimator"
    command = f"source {script}; complete -p ksm-estimator"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "_ksm_estimator_completion ksm-estimator" in done.stdout


def test_the_columns_are_explained_without_the_repository() -> None:
    done = estimator("help", "columns")
    assert (done.returncode, done.stderr) == (0, "")
    reference = Path(__file__).parents[1] / "estimator/report/README.md"
    titles = [line.lstrip("# ") for line in reference.read_text().splitlines() if line[:1] == "#"]
    assert len(titles) > 5
    shown = [line.strip() for line in done.stdout.splitlines()]
    assert {title.replace("`", "") for title in titles} <= set(shown)
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert estimator("help", "nothing").returncode == 2
