"""What a target allows, before any long work: findings, one per question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from estimator.errors import EXIT_OK, EstimatorError
from estimator.units import human_seconds

UPPER_BOUND_ONLY = (
    "nothing of it will be read (--without-contents): there will be an upper bound only"
)


@dataclass(frozen=True)
class Finding:
    """The answer to one question about a target.

    ``status``: "ok", "warn" (there will be an answer, with less in it) or "fail" (there will be
    none). ``hint``: what to do about it. ``facts``: the numbers in ``text``, units in their names.
    """

    subject: str
    status: str
    text: str
    hint: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Findings:
    """Findings in the order of asking; after a failure nothing more can be found out."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.exit_code = EXIT_OK

    def add(
        self, subject: str, text: str, *, status: str = "ok", hint: str | None = None, **facts: Any
    ) -> None:
        """Note a finding."""
        self.found.append(Finding(subject, status, text, hint, facts))

    def add_ksm(self, ksm: dict[str, Any], opted_in: str, **facts: Any) -> None:
        """Note whether ksmd runs (``ksm``: of ``snapshot.json``), and who has opted in."""
        run, sharing = ksm.get("run", 0), ksm["counters"].get("pages_sharing", 0)
        state = {1: "on", 2: "off, unmerged"}.get(run, "off")
        text = f"{state}, pages_sharing {sharing:,}; opted in: {opted_in}"
        self.add("KSM", text, run=run, pages_sharing=sharing, **facts)

    def add_time(self, start_up_seconds: float, read_seconds: float, cores: str) -> None:
        """Note how long a collection will take: to start, and then to read, on ``cores``."""
        seconds = start_up_seconds + read_seconds
        self.add(
            "time",
            f"about {human_seconds(seconds)} on {cores}, {human_seconds(start_up_seconds)} of it "
            "to start",
            seconds=round(seconds, 1),
            start_up_seconds=round(start_up_seconds, 1),
        )

    def ask(self, subject: str, question: Callable[[], Any]) -> Any:
        """What ``question`` returns; None, noted as a failure, if it raises an EstimatorError."""
        try:
            return question()
        except EstimatorError as error:
            self.add(subject, error.message, status="fail", hint=error.hint)
            self.exit_code = error.exit_code
            return None

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "exit_code": self.exit_code,
            "findings": [vars(finding) for finding in self.found],
        }
