"""``help``: what the answers mean, installed with the program."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

_TOPICS = {"columns": "README.md"}


@click.command("help")
@click.argument("topic", type=click.Choice(list(_TOPICS)), required=False)
def show_help(topic: str | None) -> None:
    """Explain: every line and column of the answers (help columns)."""
    if topic is None:
        click.echo(f"ksm-estimator help {', '.join(_TOPICS)}: every line and column of the answers")
        click.echo("ksm-estimator COMMAND --help: what a command takes")
        return
    text = files("estimator.report").joinpath(_TOPICS[topic]).read_text(encoding="utf-8")
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        click.echo(text, nl=False)
