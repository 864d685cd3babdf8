"""The man page and the completions that the package installs, made from the command itself.

python -m scripts.shared_files      writes share/, which is kept in the repository
"""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from estimator.cli import COMPLETE, cli

SHARE = Path(__file__).parents[1] / "share"
_SCRIPTS = {
    "bash": "bash-completion/completions/ksm-estimator",
    "zsh": "zsh/site-functions/_ksm-estimator",
    "fish": "fish/vendor_completions.d/ksm-estimator.fish",
}
_EXIT_CODES = """\
0  done
1  internal error, or too little memory here
2  usage
3  the target can't be opened, or the answer not be written
4  no debug information
5  the input can't answer
6  answered, but less than --min-coverage could be read
7  verify: the kernel differs from the prediction
130  interrupted"""


def shared_files() -> dict[str, str]:
    """What lies in ``SHARE``: the text of each file by its name there."""
    files = {"man/man1/ksm-estimator.1": man_page()}
    for shell, name in _SCRIPTS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        files[name] = kind(cli, {}, "ksm-estimator", COMPLETE).source().rstrip() + "\n"
    return files


def man_page() -> str:
    """The manual page of the command and all that it does, in troff's man macros."""
    context = click.Context(cli, info_name="ksm-estimator", **cli.context_settings)
    assert cli.help is not None
    lines = [
        '.TH KSM-ESTIMATOR 1 "" "" "User Commands"',
        ".SH NAME",
        f"ksm-estimator \\- {_text(cli.help[0].lower() + cli.help[1:])}",
        ".SH SYNOPSIS",
        f".B ksm-estimator\n{_text(' '.join(cli.collect_usage_pieces(context)))}",
        ".SH COMMANDS",
    ]
    for name, command in _all_commands():
        below = click.Context(command, info_name=name, parent=context)
        lines += [
            f'.SS "{_text(" ".join([name, *command.collect_usage_pieces(below)]))}"',
            _paragraphs(command.help or ""),
        ]
        options = [each for each in command.get_params(below) if isinstance(each, click.Option)]
        for record in filter(None, (option.get_help_record(below) for option in options)):
            lines += [".TP", f".B {_text(record[0])}", _text(record[1])]
    lines.append(".SH EXIT STATUS")
    for line in _EXIT_CODES.splitlines():
        code, meaning = line.split("  ")
        lines += [".TP", f".B {code}", _text(meaning)]
    lines += [
        ".SH SEE ALSO",
        "ksm-estimator help columns",
        ".br",
        "https://docs.kernel.org/admin-guide/mm/ksm.html",
    ]
    return "\n".join(lines) + "\n"


def _all_commands() -> list[tuple[str, click.Command]]:
    """Every command by what is typed, those of a group after it."""
    found = []
    for name, command in sorted(cli.commands.items()):
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {each}", one) for each, one in sorted(command.commands.items())]
    return found


def _paragraphs(text: str) -> str:
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n.PP\n".join(map(_text, parts))


def _text(text: str) -> str:
    """``text`` as troff takes it for text: no escape, no request, no hyphen for a minus."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write them all."""
    for name, text in shared_files().items():
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
