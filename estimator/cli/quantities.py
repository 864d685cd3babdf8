"""Quantities on the command line: durations (90s), sizes (64G), percentages, a page's cost."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from estimator.advice.page_cost import PageCost

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)")


class FiniteRange(click.FloatRange):
    """A float within bounds: inf is none, and nan passes every bound."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As FloatRange has it."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


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


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes as an int, more than 0."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """In powers of 1024: 64G, 64GiB and 64GB are the same."""
        found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no size: 64G, 512M", param, ctx)
        return int(found[1]) << 10 * " KMGT".index(found[2] or " ")


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


class Cost(click.ParamType):  # type: ignore[type-arg]
    """A PageCost: microseconds of CPU time a page, or of each of its terms: visit=0.5,...

    The terms are those of ``CostTerms``; split may be missing.
    """

    name = "cost"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> PageCost:
        """None is negative; one alone is more than 0."""
        from estimator.advice.cost_terms import CostTerms
        from estimator.advice.page_cost import PageCost, cost_by_terms

        names = [each.name.removesuffix("_seconds") for each in fields(CostTerms)]
        parts = dict(part.partition("=")[::2] for part in str(value).split(","))
        try:
            numbers = {name: float(text or name) / 1e6 for name, text in parts.items()}
        except ValueError:
            numbers = {}
        alone = "=" not in str(value)
        if not all(0 <= number < 1 for number in numbers.values()) or alone > any(numbers.values()):
            self.fail(f"{value!r} is no number of microseconds, nor terms of it", param, ctx)
        if alone:
            return PageCost(float(str(value)) / 1e6, "given")
        missing = {*names, "split"} - {*numbers, "split"}
        if missing or not set(numbers) <= set(names):
            self.fail(f"the terms are {', '.join(names)}, each as in visit=0.5", param, ctx)
        split = numbers.pop("split", None)
        given = {f"{name}_seconds": number for name, number in numbers.items()}
        return cost_by_terms(CostTerms(**given, split_seconds=split), "given")
