"""The JSON of every command is what its schema in docs/schemas says: no field more, none less."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import pytest

from estimator.cli import cli
from estimator.cli.page_cost import add_page_cost
from estimator.collect.findings import Findings
from estimator.procfs.rights import PartOfHost
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.schemas import SCHEMAS, check, objects
from tests.synthetic import System, folio, small
from tests.systems import Area, Process, fork_server, system
from tests.test_kernel_check import asked
from tests.test_kernel_check import kernel as kernel  # a fixture
from tests.test_kernel_collect import Merged
from tests.test_passes import looks
from tests.test_upper_bound import without_contents
from tests.test_verify import BOOT, running

OLD_SNAPSHOT = Path(__file__).parent / "data" / "format_1.ksm"
KSMD: dict[str, Any] = {
    "run": 1,
    "full_scans": 10,
    "pages_shared": 5,
    "pages_sharing": 9,
    "pages_scanned": 1000,
}


def ksm_on() -> Snapshot:
    """KSM has merged two of three equal pages; the advisor runs, and ksmd has had CPU time."""
    merged = small(7)[0]
    made = System("6.12", run=1, smart_scan=1, pages_to_scan=100, sleep_millisecs=20)
    for name, value in {"advisor_mode": 1, "ksmd_cpu_ns": 10**9, "counters": KSMD}.items():
        made.ksm[name] = value
    made.stable_node(merged)
    for _ in range(2):
        made.process(merged, *small(7, 0, 1)).vmas[0].mergeable = True
    return complete(made)


def complete(made: System) -> Snapshot:
    """The snapshot with all that a file of it says of its origin."""
    snapshot = made.snapshot()
    of_it = {key: value for key, value in system([]).info.items() if key not in snapshot.info}
    return replace(snapshot, info=snapshot.info | of_it)


def huge() -> Snapshot:
    made = System(pages_to_scan=100, sleep_millisecs=20)
    made.thp_enabled = "always"
    made.process(*folio([7, 0, 0, 9] * 128))
    made.process(*folio([7, None, 3, 4] * 128)[:3])
    return complete(made)


def host() -> Snapshot:
    """A virtual machine, a real-time process, what is on already, and pages beyond a border."""
    data = list(range(1, 400))
    line = "/usr/bin/qemu-system-x86_64\0-name\0guest=web"
    guest = Area(data, name="")
    on, fast = Area(data, name="[anon:on]", mergeable=True), Area(data)
    found = system(
        [
            Process("qemu", [guest], "/machine.slice/web.scope", 64055, cmdline=line),
            Process("cache", [on], "/system.slice/cache.service", 1),
            Process("fast", [fast], "/system.slice/fast.service", 2, sched_policy=1),
        ]
    )
    found.info["boot_id"] = BOOT
    return found


def of_a_kernel() -> Snapshot:
    """As the reader of kernels makes it: all that it says of a kernel."""
    merged = Merged()
    settings = {"max_page_sharing": 256, "use_zero_pages": 0, "merge_across_nodes": 1}
    settings |= {"thread_pages_to_scan": 100, "thread_sleep_millisecs": 20, "smart_scan": 0}
    for name, value in settings.items():
        merged.kernel.integer(f"ksm_{name}", value)
    merged.kernel.text("VMCOREINFO", b"OSRELEASE=6.12.0\nCRASHTIME=1700000000\n")
    return merged.collect()


SNAPSHOTS = {
    "forks": fork_server(),
    "nobody": system([Process("db", [Area([1, 2, 3])])]),
    "unknown": system([Process("db", [Area([None, None, 3])], pid=p) for p in (5, 6)]),
    "passes": looks([1, 2, 3, 4], [1, 2, 9, 4]),
    "KSM on": ksm_on(),
    "huge": huge(),
    "host": host(),
    "kernel": of_a_kernel(),
}
ADVISOR = ("--advisor", "scan-time", "--sleep", "20")
FORECAST = ("--pages-to-scan", "100", "--sleep", "20")
QUESTIONS: dict[str, list[tuple[str, ...]]] = {
    "prediction": [("predict",), ("report", "--scope", "enabled")],
    "forecast": [
        ("forecast", *FORECAST),
        ("forecast", *FORECAST, "--for", "10s", "--by", "process"),
        ("forecast", *FORECAST, "--by", "service"),
    ],
    "ramp": [
        ("forecast", *FORECAST, "--ramp", "1", "--every", "1s"),
        ("forecast", *FORECAST, "--as-started"),
        ("forecast", *FORECAST, "--ramp", "1", "--every", "5s", "--for", "1s"),
    ],
    "whatif": [("whatif",), ("whatif", "--scope", "enabled")],
    "why": [("report", "--why")],
    "advise": [("advise",), ("advise", "--scope", "enabled"), ("advise", "--within", "uid")],
}


def answer(*arguments: object) -> Any:
    done = estimator(*arguments, "--json", "--min-coverage", "0")
    assert done.stderr == "" or done.returncode in (5, 7), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("snapshots")
    for name, snapshot in SNAPSHOTS.items():
        write_snapshot(snapshot, directory / f"{name}.ksm")
    return {name: directory / f"{name}.ksm" for name in SNAPSHOTS} | {"format 1": OLD_SNAPSHOT}


def parts_of(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for part in schema.values() if isinstance(schema, dict) else schema:
            yield from parts_of(part)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_object_is_closed_and_every_number_explained(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    for part in parts_of(SCHEMAS[name]):
        if "properties" not in part:
            continue
        assert part["additionalProperties"] is False, part
        for field, what in part["properties"].items():
            kinds = what.get("type", ()) if isinstance(what, dict) else ()
            number = {"integer", "number"} & set([kinds] if isinstance(kinds, str) else kinds)
            assert not number or what.get("description"), field


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (schema, kind)
        for schema in QUESTIONS
        for kind in (*SNAPSHOTS, "format 1")
        if (schema, kind) != ("advise", "format 1")  # it does not say how ksmd is set
    ],
)
def test_answers_are_as_their_schema_says(schema: str, kind: str, paths: dict[str, Path]) -> None:
    for command, *options in QUESTIONS[schema]:
        check(schema, answer(command, paths[kind], *options))


def test_what_is_asked_for_alone_is_as_the_schema_says(paths: dict[str, Path]) -> None:
    reach = ("--reach", "90%", "--within", "10min")
    check("forecast", answer("forecast", paths["forks"], *reach))
    check("forecast", answer("forecast", paths["forks"], *ADVISOR, "--for", "1min"))
    check("whatif", answer("whatif", paths["forks"], "--and", later(paths)))
    check("why", answer("report", paths["forks"], "--why", "--pid", "1001"))
    first = f"{SNAPSHOTS['forks'].vmas['start'][5]:x}"
    check("why", answer("report", paths["forks"], "--why", "--pid", "1001", "--vma", first))
    check("advise", answer("advise", paths["forks"], "--comm", "loner", "--only", "madvise"))


def later(paths: dict[str, Path]) -> Path:
    """The snapshot of the forks, a minute later."""
    path = paths["forks"].with_name("later.ksm")
    found = fork_server(shared=399)
    moment = {"collected_at": "2026-01-01T00:01:00+00:00"}
    write_snapshot(replace(found, info=found.info | moment), path, replace=True)
    return path


def test_bounds_are_as_the_schema_says(tmp_path: Path) -> None:
    for number, snapshot in enumerate(SNAPSHOTS.values()):
        path = tmp_path / f"{number}.ksm"
        write_snapshot(without_contents(snapshot), path)
        for command, *options in QUESTIONS["prediction"]:
            check("bound", answer(command, path, *options))


def test_comparisons_are_as_the_schema_says(paths: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(estimator("predict", paths["forks"], "--json").stdout)
    sides = [("forks", later(paths)), ("forks", file), ("host", paths["kernel"])]
    sides += [("KSM on", paths["format 1"]), ("nobody", paths["huge"])]
    answers = [answer("compare", paths[a], b) for a, b in sides]
    for each in answers:
        check("compare", each)
    assert answers[0]["changed_contents"]
    assert answers[0]["not_compared"]


def test_verifications_are_as_the_schema_says(paths: dict[str, Path], tmp_path: Path) -> None:
    stat = {"ksm_rmap_items": 3, "ksm_merging_pages": 2, "ksm_process_profit": 99}
    root = running(tmp_path, KSMD, {1001: ("cache", stat), 40: ("ksmd", {})})
    found = answer("verify", paths["host"], "--root", root)
    check("verify", found)
    assert found["processes"]
    assert found["page_cost"]
    check(
        "verify", answer("verify", paths["host"], "--root", running(tmp_path / "x", {"run": 0}, {}))
    )


def test_findings_are_as_the_schema_says(
    kernel: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = tmp_path / "vmcore"
    dump.write_bytes(b"no dump")
    check("check", json.loads(estimator("check", "--core", dump, "--json").stdout))
    for excluded in (set(), {0x100}):
        found = Findings()
        found.found += asked(kernel, excluded).values()
        check("check", found.to_json())
    found = Findings()
    add_page_cost(found, running(tmp_path, KSMD | {"pages_scanned": 10**6}, {40: ("ksmd", {})}))
    found.add("container", "part", **vars(PartOfHost(1, 2)))
    check("check", found.to_json())
    if os.geteuid() == 0:
        check("check", json.loads(estimator("check", "--procfs", "--json").stdout))


@pytest.mark.parametrize("schema", QUESTIONS)
def test_a_field_more_or_less_is_noticed(schema: str, paths: dict[str, Path]) -> None:
    """In every object of an answer, wherever it stands."""
    command, *options = QUESTIONS[schema][0]
    found = answer(command, paths["host"], *options)
    places = {where: (part, value) for where, part, value in objects(schema, found)}
    assert len(places) > 4
    for part, value in places.values():
        value["added"] = 1
        with pytest.raises(jsonschema.ValidationError):
            check(schema, found)
        del value["added"]
        for name in part.get("required", ()):
            kept = value.pop(name)
            with pytest.raises(jsonschema.ValidationError):
                check(schema, found)
            value[name] = kept
    check(schema, found)


def test_every_command_with_json_has_a_schema() -> None:
    fleet = cli.commands["fleet"]
    assert isinstance(fleet, click.Group)
    commands = {**fleet.commands, **cli.commands, "fleet": fleet.commands["report"]}
    with_json = {n for n, c in commands.items() if any("--json" in p.opts for p in c.params)}
    of_prediction = {"predict", "run", "report"}
    assert with_json - of_prediction <= {*SCHEMAS}
    assert of_prediction <= with_json
