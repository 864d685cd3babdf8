"""Numbers and names as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """``count`` bytes in the binary unit that leaves one to four digits before the point.

    >>> human_bytes(4096), human_bytes(-3 * 2**20), human_bytes(0), human_bytes(-7)
    ('4.0 KiB', '-3.0 MiB', '0', '> -0.1 KiB')
    """
    if count == 0:
        return "0"
    value = count / 1024
    unit = _BINARY_UNITS[0]
    for unit in _BINARY_UNITS:
        if abs(value) < 1000 or unit == _BINARY_UNITS[-1]:
            break
        value /= 1024
    digits = 1 if abs(value) < 100 else 0
    if abs(value) < 0.05:
        return f"< 0.1 {unit}" if value > 0 else f"> -0.1 {unit}"
    return f"{value:.{digits}f} {unit}"


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent; never rounds a part of something to 0 % or 100 %.

    >>> percent(1, 3), percent(9999, 10000), percent(1, 100000), percent(0, 0)
    ('33%', '99.99%', '< 0.01%', '0%')
    """
    if not whole or not part:
        return "0%"
    value = 100 * part / whole
    if abs(value) < 0.01:
        return "< 0.01%" if value > 0 else "> -0.01%"
    if 99 < value < 100:
        return f"{min(value, 99.99):.2f}%"
    return f"{value:.0f}%" if abs(value) >= 10 else f"{value:.2g}%"


def human_seconds(seconds: float) -> str:
    """A duration with two figures that matter.

    >>> human_seconds(0.24), human_seconds(75), human_seconds(7260)
    ('0.24 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def count(number: float) -> str:
    """A whole number with thousands separated."""
    return f"{round(number):,}"


def plural(number: float, noun: str) -> str:
    """A number and its noun.

    >>> plural(1, "page"), plural(2000, "process")
    ('1 page', '2,000 processes')
    """
    ending = "" if round(number) == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count(number)} {noun}{ending}"


def printable(name: str) -> str:
    r"""``name`` without anything that could drive a terminal: such characters as ``\xNN``.

    Names come from the processes themselves, which may call themselves what they like.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name
    )


def printable_lines(text: str) -> str:
    """``printable`` for text of several lines; tabs become spaces."""
    return "\n".join(map(printable, text.expandtabs().split("\n")))


def words_between(ends: Sequence[float], show: Callable[[float], str]) -> str:
    """Both ends, or the one that both are.

    >>> words_between((60, 90), human_seconds), words_between((60, 60.1), human_seconds)
    ('1 min to 1 min 30 s', '1 min')
    """
    return " to ".join(dict.fromkeys(map(show, ends)))
