"""The HTML report: one safe file, and looked at in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import pytest

from estimator.advice.moment import marks
from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.html import report_page
from estimator.snapshot.snapshot import Snapshot
from estimator.units import human_seconds
from tests.systems import Area, Process, fork_server, system

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def page_of(snapshot: Snapshot) -> str:
    plan = make_plan(snapshot)
    times = schedule(snapshot, plan.prediction)
    risk = assess(snapshot, plan.prediction)
    return report_page(snapshot, plan.everything, plan, times, risk)


def test_how_the_saving_grows_is_shown_with_its_marks() -> None:
    snapshot = fork_server()
    plan = make_plan(snapshot)
    times = schedule(snapshot, plan.prediction)
    pacing = times.as_proposed.pacing
    reached = marks(forecast(plan.prediction.snapshot), times.as_proposed)
    assert len(reached) == 3
    html = page_of(snapshot)
    assert f"The plan over time, with pages_to_scan {pacing.pages_to_scan:,} and" in html
    for mark in reached:
        assert f"{mark.share:.0%} in {human_seconds(mark.seconds[1])}" in html


def test_why_there_is_little_stands_before_the_pictures() -> None:
    html = page_of(system([Process("web", [Area([1, 2, 3])])]))
    assert 0 < html.index("Why so little") < html.index("<figure")
    assert html.count("Why so little") == 1


def test_a_saving_of_nothing_has_no_marks() -> None:
    html = page_of(system([Process("web", [Area([1, 2, 3])])]))
    assert "The plan over time" in html
    assert "50% in" not in html


def test_names_are_text_wherever_they_appear() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>$x_2$"
    snapshot = system(
        [Process(evil, [Area([1, 2], name=evil)], cgroup=f"/system.slice/{evil}.service")] * 2
    )
    html = page_of(snapshot)
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "onerror=alert(2)&gt;$x_2$" in html


def test_needs_no_network(html: str) -> None:
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_stays_small_with_many_processes_and_vmas() -> None:
    """What grows with a snapshot are rows, and these are limited."""
    areas = [Area([page], name=f"/usr/lib/x86_64-linux-gnu/lib{page}.so") for page in range(1, 6)]
    crowd = [
        Process(
            f"process-{n % 500}",
            [*areas, Area([1_000_000 + n], name=f"[anon:{n}]")],
            cgroup=f"/kubepods.slice/pod-{n}/container.service",
            uid=n,
        )
        for n in range(1500)
    ]
    html = page_of(system(crowd))
    assert len(html.encode()) < 5_000_000
    assert "The first 1000 of 1500 rows." in html


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium to look at the report with")
        pytest.skip("no chromium to look at the report with")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(fork_server())


@pytest.fixture
def browser_page(browser: Browser, html: str, tmp_path: Path) -> Iterator[Page]:
    file = tmp_path / "report.html"
    file.write_text(html)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(file.as_uri())
    yield page
    page.close()


def screenshots(tmp_path: Path) -> Path:
    """Where screenshots are kept: $SCREENSHOTS, else with the test's own files."""
    directory = Path(os.environ.get("SCREENSHOTS", tmp_path))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_in_a_browser(browser_page: Page, tmp_path: Path) -> None:
    page = browser_page
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: problems.append(request.url))
    kept = screenshots(tmp_path)
    page.screenshot(path=kept / "report-wide.png", full_page=True)
    assert "KSM would free" in page.inner_text(".verdict >> nth=0")
    assert page.locator("figure svg:visible").count() == 5

    processes = page.locator(
        "section", has=page.get_by_role("heading", name="Who contributes: processes")
    )
    column = processes.locator("tbody td:nth-child(1)")
    pids = [int(pid) for pid in column.all_inner_texts()]
    header = processes.get_by_role("button", name="pid")
    header.click()
    assert [int(pid) for pid in column.all_inner_texts()] == sorted(pids, reverse=True)
    header.click()
    assert [int(pid) for pid in column.all_inner_texts()] == sorted(pids)
    freed = processes.get_by_role("button", name="frees", exact=True)
    freed.click()
    keys = processes.locator("tbody td:nth-child(10)").evaluate_all(
        "c => c.map(x => +x.dataset.key)"
    )
    assert keys == sorted(keys, reverse=True)

    processes.get_by_role("searchbox").fill("BATCH")
    assert processes.locator("tbody tr:visible").count() == 2
    processes.screenshot(path=kept / "report-filtered.png")

    assert not problems


TOO_WIDE = """[document.documentElement, ...document.querySelectorAll(".scroll")]
    .filter(box => box.scrollWidth > box.clientWidth).length"""
OFF_SCREEN = """[...document.querySelectorAll("td.number")].filter(cell => {
    const box = cell.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth);
}).length"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_number_is_off_screen(
    width: int, scheme: Literal["light", "dark"], browser_page: Page, tmp_path: Path
) -> None:
    page = browser_page
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.screenshot(path=screenshots(tmp_path) / f"report-{width}-{scheme}.png", full_page=True)
    assert page.evaluate(TOO_WIDE) == 0
    assert page.evaluate(OFF_SCREEN) == 0
    lightness = "c => getComputedStyle(document.body)[c].match(/\\d+/g)[0]"
    text, paper = (int(page.evaluate(lightness, c)) for c in ("color", "backgroundColor"))
    assert (text < 64 and paper > 192) if scheme == "light" else (text > 192 and paper < 64)


LETTERS = """[...document.querySelectorAll("figure svg text")]
    .filter(text => text.getClientRects().length)
    .map(text => {
        const on_screen = text.getScreenCTM();
        return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(on_screen.a, on_screen.b);
    })"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pictures_can_be_read(width: int, browser_page: Page) -> None:
    page = browser_page
    page.set_viewport_size({"width": width, "height": 900})
    assert page.locator("figure svg:visible").count() == 5
    sizes = page.evaluate(LETTERS)
    assert len(sizes) > 50
    assert min(sizes) >= 11, f"{min(sizes):.1f} px"


def test_a_table_as_csv(browser_page: Page, tmp_path: Path) -> None:
    page = browser_page
    heading = page.get_by_role("heading", name="Who contributes: processes")
    section = page.locator("section", has=heading)
    section.get_by_role("searchbox").fill("worker")
    with page.expect_download() as download:
        section.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "Who-contributes-processes.csv"
    download.value.save_as(tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    snapshot = fork_server()
    prediction = predict(snapshot, Policy())
    expected = prediction.processes[prediction.processes["comm"] == "worker"]
    assert sorted(table["pid"]) == sorted(expected["pid"])
    assert table["merged bytes"].sum() == 4096 * expected["ksm_merging_pages"].sum()


def test_on_paper(browser_page: Page, tmp_path: Path) -> None:
    page = browser_page
    page.emulate_media(media="print", color_scheme="dark")
    page.pdf(path=screenshots(tmp_path) / "report-print.pdf", format="A4")
    assert page.locator(".tools:visible").count() == 0
    style = "e => getComputedStyle(e)"
    assert page.locator("h2").first.evaluate(f"e => ({style})(e).breakAfter") == "avoid"
    assert page.locator("body").evaluate(f"e => ({style})(e).color") == "rgb(33, 37, 41)"


def test_the_page_says_once_what_to_know_before_trusting_it(html: str) -> None:
    assert html.count("Before you trust these numbers") == 1


def test_the_page_says_what_it_is_of(html: str) -> None:
    assert "<p>Of example, Linux 6.12 (x86_64): the dump vmcore, " in html
    assert "<p>Asked: --scope all; max_page_sharing 256, " in html
