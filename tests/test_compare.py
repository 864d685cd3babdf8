"""Comparison of two predictions in their JSON form."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from estimator.advice.changed_contents import REASONS, changed_contents
from estimator.advice.compare import Comparison, compare
from estimator.errors import UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.report.as_json import comparison_json, prediction_json
from estimator.report.text import render_comparison
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system

WEB = Process("web", [Area([1, 2, 3])], cgroup="/web.service")


def test_what_changed_and_who_did_it() -> None:
    before = system([WEB, WEB, Process("gone", [Area([1])])])
    new = Process("cache", [Area([7] * 10)], cgroup="/cache.service")
    after = system([WEB, WEB, new])
    a, b = (
        json.loads(json.dumps(prediction_json(predict(snapshot, Policy(max_page_sharing=m)))))
        for snapshot, m in ((before, 256), (after, 128))
    )
    comparison = compare(a, b)
    numbers = comparison.numbers.set_index("number")["change"]
    assert numbers["pages_shared"] == 1
    assert numbers["pages_sharing"] == -1 + 9
    programs = comparison.programs.set_index("comm")
    assert programs.index.tolist() == ["cache", "web", "gone"]
    assert programs["processes_change"].to_dict() == {"cache": 1, "gone": -1, "web": 0}
    assert programs.loc["cache", "ksm_merging_pages_change"] == 10
    settings = comparison.settings.set_index("setting")
    assert list(settings.loc["policy.max_page_sharing"]) == [256, 128]


def as_file(prediction: Prediction) -> Any:
    return json.loads(json.dumps(prediction_json(prediction)))


def shown(comparison: Comparison) -> str:
    text = io.StringIO()
    render_comparison(comparison, Console(file=text, width=100))
    return text.getvalue()


def test_a_file_and_a_snapshot_of_one_policy_do_not_differ() -> None:
    found = predict(system([WEB]), Policy(comms=("web",)))
    comparison = compare(as_file(found), prediction_json(found))
    assert comparison.settings.empty
    text = shown(comparison)
    assert text.startswith("B would free as much as A: ")
    assert "Kernel and settings" not in text
    assert "Which programs" not in text


def test_memory_has_its_unit_and_programs_add_up() -> None:
    before = predict(system([WEB, WEB]))
    after = predict(system([WEB, WEB, Process("cache", [Area([7] * 300)])]))
    comparison = compare(as_file(before), as_file(after))
    programs, numbers = comparison.programs, comparison.numbers.set_index("number")["change"]
    assert programs["saved_pages_change"].sum() == pytest.approx(numbers["frames_freed"])
    assert programs["net_bytes_change"].sum() == pytest.approx(numbers["net_bytes_saved"])
    lines = {line.split()[0]: line.split() for line in shown(comparison).splitlines() if line}
    assert lines["bytes_saved"] == ["bytes_saved", "12.0", "KiB", "1.2", "MiB", "+1.2", "MiB"]
    assert lines["frames_freed"] == ["frames_freed", "3", "301", "+298"]
    assert lines["cache"][:6] == ["cache", "0", "1", "+300", "+300", "+1.2"]


def test_what_an_older_file_lacks_is_not_known() -> None:
    """Files from before each process had what it frees."""
    found = as_file(predict(system([WEB, WEB])))
    older = json.loads(json.dumps(found))
    for process in older["processes"]:
        del process["saved_pages"], process["net_bytes"]
    for a, b in ((older, found), (found, older)):
        comparison = compare(a, b)
        assert comparison.programs[["saved_pages_change", "net_bytes_a"]].isna().all(axis=None)
        assert comparison_json(comparison)["programs"][0]["net_bytes_change"] is None


def test_changed_contents_are_named() -> None:
    first, later = (
        system([Process("db", [Area([1, 2, 3, None]), Area(pages, name="[stack]")], pid=7)])
        for pages in ([4, 5], [4, 6])
    )
    found = changed_contents(first, later)
    assert found is not None
    assert found.by_vma.to_dict("records") == [
        {"comm": "db", "label": "[stack]", "pages": 2, "compared_pages": 2, "changed_pages": 1},
        {"comm": "db", "label": "[heap]", "pages": 4, "compared_pages": 3, "changed_pages": 0},
    ]
    answers = as_file(predict(first)), as_file(predict(later))
    text = " ".join(shown(compare(*answers, found)).split())
    assert "Of 6 mappings in A, 5 could be compared" in text
    assert "could not be compared mappings" in text
    assert f"{REASONS[1]} 1" in text
    assert "1 of them changed." in text
    assert "holds no contents" in " ".join(shown(compare(*answers)).split())


def test_why_a_page_could_not_be_compared() -> None:
    """One page for each reason, by hand: what became of the process, the VMA, the page, the frame.

    A: pid 7 has pages of four VMAs, pid 8 has one page. In B pid 8 is gone, of pid 7 one page was
    not read then and one is not read now, the second VMA lies elsewhere with its frame, of the
    third only the VMA is left, and of the fourth nothing.
    """

    def seen(*areas: tuple[int, list[int | None], list[int]], others: list[Process]) -> Snapshot:
        pages = [Area(contents) for _, contents, _ in areas if contents]
        made = system([Process("db", pages, pid=7), *others])
        table, first = made.vmas.copy(), made.frames.copy()
        starts = [start for start, contents, _ in areas if contents]
        sizes = [len(contents) for _, contents, _ in areas if contents]
        table.loc[: len(starts) - 1, "start"] = np.array(starts, np.uint64)
        table.loc[: len(starts) - 1, "end"] = np.array(
            [start + size * 4096 for start, size in zip(starts, sizes, strict=True)], np.uint64
        )
        pfns = [pfn for _, contents, pfns in areas if contents for pfn in pfns]
        first.loc[: len(pfns) - 1, "pfn"] = np.array(pfns, np.uint64)
        return replace(made, vmas=table, frames=first)

    a = seen(
        (0x10000, [1, None, 3], [11, 12, 13]),
        (0x20000, [4], [14]),
        (0x30000, [5, 6], [15, 16]),
        (0x40000, [7], [17]),
        others=[Process("gone", [Area([8])], pid=8)],
    )
    b = seen(
        (0x10000, [1, 2, None], [11, 12, 13]),
        (0x30000, [5], [15]),
        (0x50000, [4], [14]),
        others=[],
    )
    b.vmas.loc[1, "end"] = np.uint64(0x32000)  # of its two pages one is not present any more
    found = changed_contents(a, b)
    assert found is not None
    assert found.by_vma["compared_pages"].sum() == 2
    assert found.not_compared.set_index("reason")["pages"].to_dict() == dict.fromkeys(REASONS, 1)


def test_a_page_behind_the_end_of_its_vma_is_unmapped() -> None:
    def db(*contents: int) -> Snapshot:
        return system([Process("db", [Area([*contents])], pid=7)])

    found = changed_contents(db(5, 6), db(5))
    assert found is not None
    assert found.not_compared.to_dict("records") == [{"reason": REASONS[-1], "pages": 1}]


def test_times_and_shares_are_said_as_elsewhere() -> None:
    snapshot = system([WEB])
    kernel = snapshot.info["kernel"] | {"uptime_seconds": 3720.5}
    kernel["wall_clock"] = "2026-01-01T02:00:00+01:00"
    found = as_file(predict(replace(snapshot, info=snapshot.info | {"kernel": kernel})))
    lines = [" ".join(line.split()) for line in shown(compare(found, found)).splitlines()]
    moment = "2026-01-01 00:00:00 UTC"
    assert f"read {moment} {moment}" in lines
    assert "its own clock 2026-01-01 01:00:00 UTC 2026-01-01 01:00:00 UTC" in lines
    assert "up for 1 h 2 min 1 h 2 min" in lines
    assert "of these read 100% 100%" in lines
    answer = comparison_json(compare(found, found))
    units = {row["number"]: row["unit"] for row in answer["numbers"]}
    assert {units["bytes_saved"], units["general_profit"], units["overhead_now_bytes"]} == {"bytes"}
    assert {units["frames_freed"], units["pages_sharing"], units["ksm_rmap_items"]} == {"pages"}
    assert {units["stable_node_chains"], units["stable_node_dups"]} == {"nodes"}
    assert answer["asked"]["b"]["scope"] == "all"


def test_contents_of_two_boots_or_seeds_are_not_compared() -> None:
    first, other = system([WEB]), system([WEB])
    first.info["boot_id"], other.info["boot_id"] = "a", "b"
    assert changed_contents(first, other) is None
    other.info["boot_id"] = "a"
    assert changed_contents(first, other) is not None
    other.info["hash"] = {"name": "test", "seed": 1}
    assert changed_contents(first, other) is None


def test_a_build_id_that_is_not_known_is_said_to_be_so() -> None:
    snapshot = system([WEB])
    a, b = (as_file(predict(snapshot)) for _ in range(2))
    a["kernel"]["build_id"], b["kernel"]["build_id"] = "abcd", None
    comparison = compare(a, b)
    settings = comparison_json(comparison)["settings"]
    assert settings == [{"setting": "kernel.build_id", "a": "abcd", "b": None}]
    line = next(line for line in shown(comparison).splitlines() if "kernel.build_id" in line)
    assert line.split() == ["kernel.build_id", "abcd", "not", "known"]


def test_what_the_two_rest_on_is_said() -> None:
    first, later, elsewhere = (system([WEB, Process("x", [Area([n])], pid=9)]) for n in (1, 2, 3))
    for snapshot in (first, later):
        snapshot.info["boot_id"] = "b"
    both, one = predict(first, later=later), predict(first)
    text = shown(compare(as_file(both), prediction_json(one)))
    assert "A and B are of one boot of one machine." in text
    for ups in ((20.0, 10.0), (10.0, 20.0), (None, 10.0)):
        a, b = (as_file(predict(first)) for _ in ups)
        a["kernel"]["uptime_seconds"], b["kernel"]["uptime_seconds"] = ups
        assert ("B shows the earlier moment" in shown(compare(a, b))) is (ups == (20.0, 10.0))
    assert "A knows which pages changed" in text
    assert "upper bounds" in text
    facts = compare(as_file(both), as_file(one)).origins.set_index("fact")[["a", "b"]].T
    assert facts["compared_pages"].tolist() == [4, None]
    assert facts["changed_pages"].tolist() == [1, None]
    assert facts["host"].tolist() == ["example", "example"]
    assert facts["hashed_share"].tolist() == [1.0, 1.0]
    assert facts["passes"].tolist() == [1, 1]

    elsewhere.info["host"] = "elsewhere"
    assert "of two machines" in shown(compare(as_file(one), as_file(predict(elsewhere))))
    elsewhere.info["host"] = "example"
    assert "one machine is not known" in shown(compare(as_file(one), as_file(predict(elsewhere))))
    other_kernel = as_file(predict(elsewhere))
    other_kernel["kernel"]["release"] = "6.99"
    assert "of two boots" in shown(compare(as_file(one), other_kernel))
    elsewhere.info["boot_id"] = "c"
    assert "of two boots" in shown(compare(as_file(one), as_file(predict(elsewhere))))


def test_something_else_is_no_prediction() -> None:
    good = prediction_json(predict(system([WEB]), Policy()))
    with pytest.raises(UsageError, match="first input is no prediction"):
        compare(cast(Any, 5), good)
    with pytest.raises(UsageError, match="second input is no prediction"):
        compare(good, {"counters": {}})
