"""What several answers to one snapshot say is one number: text, JSON, page and advice."""

from __future__ import annotations

import html
import io
import re
from collections import defaultdict
from typing import Any

import pandas as pd
import pytest

from estimator.advice.compare import compare
from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm.policy import Policy
from estimator.report.as_json import comparison_json, plan_json, prediction_json
from estimator.report.html import report_page
from estimator.report.tables import make_console
from estimator.report.text import render, render_plan
from estimator.snapshot.snapshot import Snapshot
from estimator.units import human_bytes
from tests.synthetic import PAGE, System, folio, small
from tests.systems import fork_server


def huge() -> Snapshot:
    """Huge pages with zero-filled pieces, a page held by others, one that was not read."""
    made = System(smart_scan=1, pages_to_scan=100, sleep_millisecs=20)
    service = "/system.slice/db.service"
    made.process(*folio([7, *[0] * 31]), comm="db", cgroup=service, name="[heap]")
    made.process(*folio([7, 0, 0, *range(20, 33)])[:9], comm="db", cgroup=service)
    made.process(*small(7, 20, None, *made.unique(40)), comm="web", cgroup="/system.slice/w.scope")
    made.fork(made.processes[-1])
    made.process(*small(7, 7), comm="out", excluded_by="VM_SHARED", mergeable=False)
    snapshot = made.snapshot()
    snapshot.info.update(host="example", collected_at="2026-01-01T00:00:00+00:00")
    return snapshot


class Answers:
    """All answers to one snapshot, as a person or a program gets them."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        plan = make_plan(snapshot, policy)
        times, risk = schedule(snapshot, plan.prediction), assess(snapshot, plan.prediction)
        self.json = prediction_json(plan.everything)
        self.plan = plan_json(plan, times, risk)
        self.compared = comparison_json(compare(self.json, self.json))
        files = {name: io.StringIO() for name in ("report", "advise")}
        render(snapshot, plan.everything, make_console(files["report"], width=400))
        render_plan(snapshot, plan, times, risk, make_console(files["advise"], width=400))
        self.report, self.advise = (files[name].getvalue() for name in files)
        self.page = report_page(snapshot, plan.everything, plan, times, risk)

    def texts(self) -> dict[str, dict[str, list[list[str]]]]:
        """The tables of the text of report and advise, by title, as rows of cells."""
        return {"report": text_tables(self.report), "advise": text_tables(self.advise)}


def text_tables(text: str) -> dict[str, list[list[str]]]:
    tables: dict[str, list[list[str]]] = defaultdict(list)
    title = ""
    before = ""
    for line in text.splitlines():
        if line and not before:
            title = line
        elif line.startswith("  ") and not set(line) <= set(" ─"):
            tables[title].append(re.split(r"\s{2,}", line.strip()))
        before = line
    return tables


def page_tables(page: str) -> dict[str, list[list[str]]]:
    tables: dict[str, list[list[str]]] = {}
    for section in re.findall(r"<section>(.*?)</section>", page, re.DOTALL):
        title = html.unescape(re.findall(r"<h2>(.*?)</h2>", section)[0])
        rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        plain = [[html.unescape(re.sub("<.*?>", "", cell)).strip() for cell in r] for r in cells]
        tables[title] = [[cell for cell in row if cell] for row in plain]
    return tables


@pytest.fixture(
    scope="module",
    params=[
        (fork_server(4, 60, 20), Policy(use_zero_pages=True, max_page_sharing=5)),
        (huge(), Policy()),
    ],
    ids=["forks", "huge pages"],
)
def answers(request: pytest.FixtureRequest) -> Answers:
    return Answers(*request.param)


def test_the_page_shows_the_tables_of_the_text(answers: Answers) -> None:
    """Cell by cell, but for what a terminal leaves out."""
    page = page_tables(answers.page)
    compared = 0
    for tables in answers.texts().values():
        for title, rows in tables.items():
            if title not in page:
                continue
            found = {tuple(row) for row in page[title]}
            for row in rows:
                if len(row) > 1 and not row[0].startswith("and "):
                    assert tuple(row) in found, title
                    compared += 1
    assert compared > 60


def test_totals_are_those_of_the_headline(answers: Answers) -> None:
    physical, counters = answers.json["physical"], answers.json["counters"]
    net, freed = (human_bytes(physical[name]) for name in ("net_bytes_saved", "bytes_saved"))
    headline = " ".join(answers.report.splitlines()[:3])
    assert net in headline
    assert human_bytes(physical["frames_before"] * PAGE) in headline
    tables = answers.texts()["report"]
    for title in ("services and cgroups", "processes", "VMAs by name"):
        *_, total = (row for row in tables[f"Who contributes: {title}"] if row[0] == "all")
        assert total[-2:] == [freed, net], title
        assert f"{counters['ksm_rmap_items']:,}" in total
    for title in ("Who saves memory with whom: programs", "Most duplicated contents"):
        assert next(row for row in tables[title] if row[0] == "all") == ["all", freed]
    savings = {row[0]: row[1] for row in tables["Two savings"]}
    assert savings["net"] == net
    assert savings["frames that become free"] == freed


def test_frames_mappings_and_rmap_items_are_three_numbers(answers: Answers) -> None:
    ledger = {row[0]: row[1] for row in answers.texts()["report"]["Frames, mappings, rmap_items"]}
    number = {name: int(text.replace(",", "")) for name, text in ledger.items() if name != "number"}
    frames, mappings, *less, items, freed = number.values()
    coverage, physical = answers.json["coverage"], answers.json["physical"]
    assert (frames, mappings) == (physical["frames_before"], coverage["candidate_pages"])
    assert items == answers.json["counters"]["ksm_rmap_items"] == mappings + sum(less)
    assert freed == physical["frames_freed"]


def test_lists_of_the_json_add_up(answers: Answers) -> None:
    physical = answers.json["physical"]
    for name in ("processes", "vmas", "units", "cgroups"):
        table = pd.DataFrame(answers.json[name])
        assert table["saved_pages"].sum() == pytest.approx(physical["frames_freed"], abs=1e-3)
        assert table["net_bytes"].sum() == pytest.approx(physical["net_bytes_saved"], abs=1)
        assert table["scanned_pages"].sum() == answers.json["coverage"]["candidate_pages"]
        items = answers.json["counters"]["ksm_rmap_items"]
        assert table["ksm_rmap_items"].sum() == items
    for by, pairs in answers.json["pairs"].items():
        saved = pd.DataFrame(pairs)["saved_pages"].sum()
        if by != "process" or len(pairs) < 100:
            assert saved == pytest.approx(physical["frames_freed"], abs=1e-3), by
    assert all(row["a"] == row["b"] for row in answers.compared["numbers"])


def test_processes_say_the_same_in_text_and_json(answers: Answers) -> None:
    rows = {row[0]: row for row in answers.texts()["report"]["Who contributes: processes"][1:]}
    shown = 0
    for process in answers.json["processes"]:
        if str(process["pid"]) in rows:
            row = rows[str(process["pid"])]
            pages = [process[name] * PAGE for name in ("scanned_pages", "ksm_merging_pages")]
            assert row[4:6] == [human_bytes(n) for n in pages]
            amounts = [process["saved_pages"] * PAGE, process["net_bytes"]]
            assert row[-2:] == [human_bytes(n) for n in amounts]
            shown += 1
    assert shown >= 3


def plan_total(answers: Answers, name: str) -> Any:
    return sum(line[name] for line in answers.plan["lines"])


def test_the_plan_adds_up_to_its_prediction(answers: Answers) -> None:
    physical, everything = answers.plan["physical"], answers.plan["everything"]["physical"]
    assert everything == answers.json["physical"]
    assert plan_total(answers, "saved_pages") == pytest.approx(physical["frames_freed"])
    assert plan_total(answers, "profit_bytes") == pytest.approx(physical["net_bytes_saved"], abs=1)
    if answers.plan["frontier"]:
        saved = max(step["saved_pages"] for step in answers.plan["frontier"])
        assert saved == everything["frames_freed"]
    tables = answers.texts()["advise"]
    for heading, on in (("What to opt in", False), ("On already: nothing to change", True)):
        lines = [line for line in answers.plan["lines"] if line["opted_in"] is on]
        if not lines:
            assert heading not in tables
            continue
        total = next(row for row in tables[heading] if row[0] == "all")
        saved, net = (sum(line[n] for line in lines) for n in ("saved_pages", "profit_bytes"))
        assert total[-2:] == [human_bytes(saved * PAGE), human_bytes(net)]
    words = " ".join(answers.advise.split("What to opt in")[0].split())
    assert f"frees {human_bytes(physical['net_bytes_saved'])} net" in words
    assert f"everything opted in {human_bytes(everything['net_bytes_saved'])}." in words
    assert f"of {answers.json['coverage']['candidate_pages']:,})" in words
