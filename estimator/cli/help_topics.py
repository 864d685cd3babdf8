"""``help``: what the answers mean, installed with the program."""

from __future__ import annotations

import io
import re
import shutil
import sys
from importlib.resources import files

import click

_TOPICS = {"columns": "README.md"}
_MOST_COLUMNS = 100
_LAST = re.compile(r"(?:\x1b\[[0-9;]*m| )+$", re.MULTILINE)  # blanks that fill a line
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]*\)")  # to a file of a clone: its name is enough


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
        click.echo_via_pager(_in_lines(text, with_letters=True))
    else:
        click.echo(_in_lines(text, with_letters=False), nl=False)


def _in_lines(text: str, *, with_letters: bool) -> str:
    """Markdown ``text`` in the lines of a terminal, with its bold and italic letters or without."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    theme = Theme({"markdown.code": "bold"})
    shown = Console(file=io.StringIO(), force_terminal=with_letters, width=width, theme=theme)
    with shown.capture() as captured:
        shown.print(Markdown(_LINK.sub(r"\1", text), code_theme="bw", hyperlinks=False))
    return _LAST.sub(lambda end: end[0].replace(" ", ""), captured.get())
