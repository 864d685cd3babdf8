"""Durations and percentages on the command line: 90s, 10min, 1h30min; 90, 90%."""

from __future__ import annotations

import re

import click

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)")


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds as a float, more than 0."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A bare number is in seconds."""
        text = f"{value}s" if re.fullmatch(r"\d+(\.\d+)?", str(value)) else str(value)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if _PART.sub("", text) or seconds <= 0:
            self.fail(f"{value!r} is no duration: 90s, 10min, 1h30min", param, ctx)
        return seconds


class Share(click.ParamType):  # type: ignore[type-arg]
    """A part of a whole, more than 0 and at most 1, given in percent."""

    name = "share"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """With or without the sign of percent."""
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is no percentage from 0 to 100", param, ctx)
        return share
