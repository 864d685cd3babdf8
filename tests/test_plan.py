"""The plan: what is proposed, that it is the smallest, and that its numbers are the model's own."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Literal
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.advice.domains import label_names
from estimator.advice.opt_in import Means
from estimator.advice.plan import WORTH_SHARE, Plan, make_plan, restrict
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.advice.smallest import Best
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.report.as_json import plan_json
from estimator.report.plan_sections import plan_words
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, fork_server, system

UNIQUE = iter(range(1_000_000, 9_000_000))


def unique(pages: int) -> list[int]:
    return [next(UNIQUE) for _ in range(pages)]


def service(name: str, *areas: Area, uid: int = 0) -> Process:
    return Process(name, list(areas), cgroup=f"/system.slice/{name}.service", uid=uid)


def targets(plan: Plan) -> set[tuple[str, ...]]:
    lines = plan.lines[["means", "cgroup", "comm", "name"]]
    return {tuple(row) for row in lines.to_numpy().tolist()}


DATA = list(range(1, 201))


def test_two_services_with_the_same_data_are_opted_in_together() -> None:
    snapshot = system(
        [
            service("web", Area(DATA)),
            service("api", Area(DATA)),
            service("db", Area(unique(1000))),
        ]
    )
    plan = make_plan(snapshot)
    assert targets(plan) == {
        ("unit", "/system.slice/web.service", "", ""),
        ("unit", "/system.slice/api.service", "", ""),
    }
    assert plan.lines["loss_pages"].tolist() == [200, 200]  # neither is worth it alone
    assert plan.lines["scanned_pages"].tolist() == [200, 200]
    assert plan.prediction.physical["bytes_saved"] == 200 * 4096
    assert plan.everything.counters["ksm_rmap_items"] == 1400


def test_the_whole_service_but_for_who_can_change_the_source() -> None:
    """The cache is a sixth of the pages and all of the saving."""
    cache = Area(DATA, name="[anon:cache]")
    big = system([service("db", cache, Area(unique(1000), name="")) for _ in range(2)])
    assert targets(make_plan(big)) == {("unit", "/system.slice/db.service", "", "")}
    choices: list[list[Means]] = [["vma"], ["unit", "program", "vma"]]
    for only in choices:
        plan = make_plan(big, only=only)
        assert targets(plan) == {("vma", "/system.slice/db.service", "db", "[anon:cache]")}
        assert plan.prediction.counters["ksm_rmap_items"] == 400
        line = plan.lines.iloc[0]
        assert (line["pids"], line["vmas"], line["mapped_bytes"]) == ([1000, 1001], 2, 400 * 4096)


def test_no_single_vma_where_the_service_needs_two() -> None:
    areas = [Area(DATA, name="[anon:one]"), Area([c + 1000 for c in DATA], name="[anon:two]")]
    snapshot = system([service("db", *areas, Area(unique(900), name="")) for _ in range(2)])
    plan = make_plan(snapshot, only=["unit", "program", "vma"])
    assert plan.lines["means"].tolist() == ["unit"]
    assert make_plan(snapshot, only=["vma"]).lines["means"].tolist() == ["vma", "vma"]


def test_prctl_for_a_program_outside_of_services() -> None:
    tools = system([Process("tool", [Area(DATA)], cgroup="/user.slice/s.scope")] * 2)
    assert targets(make_plan(tools)) == {("program", "/user.slice/s.scope", "tool", "")}
    nothing = make_plan(tools, only=["unit"])
    assert nothing.lines.empty
    assert plan_words(tools, nothing)[-1] == "There is nothing to propose with --only systemd."


def test_pid_1_is_no_program_that_somebody_starts() -> None:
    def plan(pid: int) -> Plan:
        first = Process("init", [Area(DATA)], pid=pid, cgroup="/init.scope")
        return make_plan(system([first, Process("web", [Area(DATA)], pid=9)]), share=1.0)

    assert {target[2] for target in targets(plan(2))} == {"init", "web"}
    assert "init" not in {target[2] for target in targets(plan(1))}


def test_a_program_of_a_service_where_its_unit_is_left_alone() -> None:
    plan = make_plan(system([service("web", Area(DATA))] * 2), only=["program"])
    assert targets(plan) == {("program", "/system.slice/web.service", "web", "")}


def test_what_is_inherited_leaves_out_the_stack() -> None:
    stack = Area(DATA[:10], name="[stack]")
    plan = make_plan(system([service("web", Area(DATA), stack)] * 2), share=1.0)
    assert plan.prediction.counters["ksm_rmap_items"] == 400
    assert plan.everything.counters["ksm_rmap_items"] == 420


def test_a_service_is_one_line_with_the_cgroups_below_it() -> None:
    cgroups = ["/system.slice/web.service/a", "/system.slice/web.service/b"]
    plan = make_plan(system([Process("web", [Area(DATA)], cgroup=c) for c in cgroups]))
    assert targets(plan) == {("unit", "/system.slice/web.service", "", "")}


def without_prctl(snapshot: Snapshot) -> Snapshot:
    features = snapshot.info["features"] | {"merge_any_prctl": False}
    return replace(snapshot, info=snapshot.info | {"features": features})


def test_without_the_prctl_only_madvise_is_left() -> None:
    snapshot = without_prctl(system([service("web", Area(DATA))] * 2))
    assert make_plan(snapshot).lines["means"].tolist() == ["vma"]
    with pytest.raises(UsageError, match="only madvise is left"):
        make_plan(snapshot, only=["unit"])


def test_lines_are_kept_apart_by_uid_where_only_sharing_inside_one_counts() -> None:
    users = [Process("tool", [Area(DATA)], uid=uid) for uid in (1, 1, 2)]
    assert make_plan(system(users)).lines["uid"].tolist() == [-1]
    inside = make_plan(system(users), within="uid")
    assert inside.lines["uid"].tolist() == [1]
    assert inside.lines["pids"].tolist() == [[1000, 1001]]


ON = Area(DATA, mergeable=True)


def test_what_is_on_already_needs_no_line_and_counts_for_the_others() -> None:
    """web alone would save nothing: api, which is on, holds the same data."""
    snapshot = system([service("web", Area(DATA)), service("api", ON)])
    plan = make_plan(snapshot)
    assert plan.to_do["cgroup"].tolist() == ["/system.slice/web.service"]
    assert plan.lines["opted_in"].tolist() == [False, True]
    assert plan.prediction.counters["pages_sharing"] == 200


def test_where_all_is_on_only_ksm_is_to_be_started() -> None:
    snapshot = system([service("web", ON), service("api", ON), service("db", Area(unique(9)))])
    plan = make_plan(snapshot)
    assert plan.to_do.empty
    assert "Nothing has to be opted in" in " ".join(plan_words(snapshot, plan))
    assert "echo 1 > /sys/kernel/mm/ksm/run" in " ".join(plan_words(snapshot, plan))
    runs = replace(snapshot, info=snapshot.info | {"ksm": snapshot.info["ksm"] | {"run": 1}})
    words = " ".join(plan_words(runs, make_plan(runs)))
    assert "KSM runs, and nothing is left to do" in words
    assert make_plan(snapshot, Policy(scope="enabled")).to_do.empty


def test_small_lines_are_not_worth_doing_and_that_is_said() -> None:
    """A hundred services with 2 equal pages each beside two with 200: 1 page is below 1 %."""
    little = [service(f"s{n}", Area([5000 + n, 5000 + n])) for n in range(100)]
    snapshot = system([service("web", Area(DATA)), service("api", Area(DATA)), *little])
    plan = make_plan(snapshot)
    assert set(plan.lines["cgroup"]) == {f"/system.slice/{n}.service" for n in ("web", "api")}
    assert not plan.share_reached
    assert plan.worth_bytes == int(WORTH_SHARE * (300 * 4096 - 600 * 64))
    assert "each of the other 100 lines would bring less than 11.6 KiB" in " ".join(
        plan_words(snapshot, plan)
    )


def test_many_services_that_all_pay() -> None:
    """More than can be tried in all sets; each repeats 60 pages of its own, later ones more."""
    many = [service(f"s{n}", Area([5000 + n] * (60 + 10 * n))) for n in range(20)]
    plan = make_plan(system(many), share=0.5)
    assert len(plan.to_do) == 8
    assert set(plan.lines["cgroup"]) == {f"/system.slice/s{n}.service" for n in range(12, 20)}
    assert len(make_plan(system(many), share=0.9).to_do) == 16


@pytest.mark.parametrize(("share", "lines"), [(0.1, 1), (0.6, 2), (0.9, 3), (1.0, 3)])
def test_the_model_has_the_last_word(share: float, lines: int) -> None:
    """What the sets are thought to save is far too much: each line brings a third of all."""
    snapshot = system([service(f"s{n}", Area([n] * 101)) for n in range(1, 4)])
    sets = [Best(np.arange(n), 1e6 + n) for n in range(4)]
    with mock.patch("estimator.advice.plan.best_sets", return_value=sets):
        assert len(make_plan(snapshot, share=share).to_do) == lines


@st.composite
def services(draw: st.DrawFn) -> Snapshot:
    """Up to four services and programs; data that some of them share, own data, some of it on."""
    processes = []
    for n in range(draw(st.integers(1, 4))):
        shared = draw(st.sets(st.sampled_from("abc")))
        data = [c for name in sorted(shared) for c in range(ord(name) * 100, ord(name) * 100 + 60)]
        again = [10_000 + n] * draw(st.integers(0, 90))
        own = list(range(20_000 + n * 1000, 20_000 + n * 1000 + draw(st.integers(0, 200))))
        cgroup = draw(st.sampled_from([f"/system.slice/s{n}.service", f"/s{n}.scope"]))
        on = draw(st.integers(0, 4)) == 0
        area = Area([*data, *again, *own], mergeable=on, name="")
        processes.append(Process(f"p{n}", [area], cgroup=cgroup))
    return system(processes)


def with_cgroups(snapshot: Snapshot, cgroups: set[str]) -> Prediction:
    """The model's answer if ``cgroups`` take part beside what is on."""
    on = snapshot.vmas["mergeable"].to_numpy()
    cgroup = snapshot.processes["cgroup"].iloc[snapshot.vmas["mm_id"]]
    return predict(restrict(snapshot, on | cgroup.isin(cgroups).to_numpy()), Policy())


def net_pages(snapshot: Snapshot, cgroups: set[str]) -> float:
    """Frames that become free with ``cgroups`` and what is on, less the rmap_items."""
    on = snapshot.vmas["mergeable"].to_numpy()
    chosen = with_cgroups(snapshot, cgroups)
    items = int(np.count_nonzero(~on[snapshot.mappings["vma_id"]] & chosen.scanned))
    return chosen.physical["frames_freed"] - items * 64 / 4096


@given(services(), st.sampled_from([0.3, 0.7, 0.9, 1.0]))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_fewest_lines_that_are_worth_it(snapshot: Snapshot, share: float) -> None:
    """Each brings what it has to; no smaller set of such lines saves the share."""
    plan = make_plan(snapshot, share=share)
    chosen = set(plan.to_do["cgroup"])
    off = {c for c in snapshot.processes["cgroup"] if c not in _on(snapshot)}
    worth_pages = plan.worth_bytes / 4096
    saves = {
        frozenset(some): net_pages(snapshot, set(some))
        for number in range(len(off) + 1)
        for some in itertools.combinations(sorted(off), number)
    }

    def worth_it(some: frozenset[str]) -> bool:
        return all(saves[some] - saves[some - {line}] >= worth_pages - 1e-9 for line in some)

    assert worth_it(frozenset(chosen))
    smaller = [some for some in saves if len(some) < len(chosen) and worth_it(some)]
    if plan.share_reached:
        most = plan.reachable.physical["net_bytes_saved"]
        goal = min(share * most, most)
        for some in smaller if goal > 0 else ():
            assert with_cgroups(snapshot, set(some)).physical["net_bytes_saved"] < goal
        assert plan.prediction.physical["net_bytes_saved"] >= goal
    else:
        best = max(n for some, n in saves.items() if worth_it(some))
        assert saves[frozenset(chosen)] == pytest.approx(best)


def _on(snapshot: Snapshot) -> set[str]:
    mms = snapshot.vmas.loc[snapshot.vmas["mergeable"], "mm_id"]
    return set(snapshot.processes["cgroup"].iloc[mms])


@given(services())
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_more_saving_never_takes_fewer_lines(snapshot: Snapshot) -> None:
    plans = [make_plan(snapshot, share=share) for share in (0.2, 0.6, 0.9, 1.0)]
    numbers = [len(plan.to_do) for plan in plans]
    assert numbers == sorted(numbers)
    for plan in plans:
        assert plan.lines["saved_pages"].sum() == pytest.approx(
            plan.prediction.physical["frames_freed"]
        )
        assert (plan.lines["loss_pages"][~plan.lines["opted_in"]] * 4096 >= plan.worth_bytes).all()


@given(services(), st.sampled_from([0.2, 0.6, 0.9, 1.0]), st.sampled_from([None, "uid"]))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_plan_whose_rows_are_given_back_is_the_same(
    snapshot: Snapshot, share: float, within: Literal["uid"] | None
) -> None:
    plans = [make_plan(snapshot, None, share, within, keep_rows=keep) for keep in (True, False)]
    found = [
        plan_json(plan, schedule(snapshot, plan.prediction, keep_rows=keep), risk)
        for plan, keep in zip(plans, (True, False), strict=True)
        if (risk := assess(snapshot, plan.prediction))
    ]
    assert json.dumps(found[0]) == json.dumps(found[1])
    for one in ("everything", "reachable", "prediction"):
        with pytest.raises(RuntimeError, match="given back"):
            len(getattr(plans[1], one).outcome)


def test_within_counts_only_what_stays_inside() -> None:
    """web and api share 200 pages across users; db repeats 50 inside its own."""
    snapshot = system(
        [
            service("web", Area(DATA), uid=1),
            service("api", Area(DATA), uid=2),
            service("db", Area([7_000_000] * 51), uid=3),
        ]
    )
    anywhere = make_plan(snapshot, share=1.0)
    inside = make_plan(snapshot, share=1.0, within="uid")
    assert set(anywhere.lines["cgroup"]) == {
        f"/system.slice/{n}.service" for n in ("web", "api", "db")
    }
    assert inside.lines["cgroup"].tolist() == ["/system.slice/db.service"]
    assert inside.within_pages == 50
    assert "The kernel does not keep to it" in " ".join(plan_words(snapshot, inside))
    risk = assess(snapshot, anywhere.prediction).borders.set_index("border")
    assert list(risk.loc["uid"]) == [3, 50 * 4096, 200 * 4096]


def test_numbers_of_a_plan_are_those_of_the_model() -> None:
    snapshot = fork_server()
    plan = make_plan(snapshot)
    again = predict(
        restrict(snapshot, plan.prediction.vmas["excluded_by"].isna().to_numpy()), Policy()
    )
    assert again.counters == plan.prediction.counters
    saved = plan.prediction.physical["bytes_saved"] / 4096
    assert plan.lines["saved_pages"].sum() == pytest.approx(saved)
    assert plan.lines["scanned_pages"].sum() == plan.prediction.counters["ksm_rmap_items"]
    assert plan.share_reached
    assert plan.frontier["saved_pages"].is_monotonic_increasing


def test_ksm_that_does_not_pay_is_called_that() -> None:
    nothing = system([service("db", Area(unique(500)))])
    plan = make_plan(nothing)
    assert plan.lines.empty
    assert "would cost memory" in plan_words(nothing, plan)[0]
    little = system([service("db", Area([*[1] * 26, *unique(1000)]))])
    assert "not worth it" in " ".join(plan_words(little, make_plan(little)))


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        make_plan(fork_server(), share=share)


def test_a_snapshot_that_does_not_say_how_ksmd_is_set() -> None:
    snapshot = fork_server()
    info = snapshot.info | {"ksm": {**snapshot.info["ksm"]}}
    del info["ksm"]["sleep_millisecs"]
    with pytest.raises(CannotAnswerError, match="sleep_millisecs"):
        schedule(replace(snapshot, info=info), predict(snapshot, Policy()))


def test_poor_candidates() -> None:
    snapshot = system(
        [
            Process("audio", [Area([1, 2])], sched_policy=1),
            Process("vault", [Area([1, 2], locked=True)]),
            Process("web", [Area([1, 2])]),
            Process("vm", [Area([1, 2])], cmdline="/usr/bin/qemu-system-x86_64\0-m\x001G"),
        ]
    )
    risk = assess(snapshot, predict(snapshot, Policy()))
    assert risk.poor_candidates.set_index("comm")["reason"].to_dict() == {
        "audio": "real-time (SCHED_FIFO)",
        "vault": "2 pages of locked memory",
    }
    machines = risk.borders.set_index("border").loc["virtual machine"]
    assert machines["domains"] == 2
    assert machines["across_bytes"] == 2 * 4096


def test_latency_critical_and_tagged_processes_are_poor_candidates_too() -> None:
    snapshot = system([Process(name, [Area([1, 2])]) for name in ("db", "tagged", "web")])
    nice = snapshot.processes.assign(nice=np.array([-5, 0, 1], np.int8))
    reasons = {}
    for machine, release, bit in (
        ("aarch64", "6.12.1", 36),
        ("aarch64", "6.11", 32),
        ("aarch64", "6.12.1", 32),  # a protection key
        ("x86_64", "6.12.1", 36),
    ):
        flags = snapshot.vmas["vm_flags"].to_numpy().copy()
        flags[1] |= np.uint64(1 << bit)
        kernel = snapshot.info["kernel"] | {"machine": machine, "release": release}
        changed = replace(
            snapshot,
            info=snapshot.info | {"kernel": kernel},
            processes=nice,
            vmas=snapshot.vmas.assign(vm_flags=flags),
        )
        risk = assess(changed, predict(snapshot, Policy()))
        reasons[machine, release, bit] = risk.poor_candidates.set_index("comm")["reason"].to_dict()
    db = {"db": "latency-critical (nice -5)"}
    tagged = "memory tagging (MTE) for 2 pages: those with tags never merge"
    assert list(reasons.values()) == [db | {"tagged": tagged}, db | {"tagged": tagged}, db, db]


def test_labels_are_a_border_of_their_own() -> None:
    processes = [Process(f"p{n}", [Area([1, 2 + n // 2])], pid=n + 1) for n in range(4)]
    snapshot = system(processes)
    labels = label_names(snapshot.processes, ["1 red", "2 red", "3 blue"], "labels")
    risk = assess(snapshot, predict(snapshot, Policy()), labels=labels)
    assert list(risk.borders.set_index("border").loc["label"]) == [3, 2 * 4096, 3 * 4096]
    pairs = risk.pairs[risk.pairs["border"] == "label"]
    assert {frozenset(pair) for pair in zip(pairs["one"], pairs["other"], strict=True)} == {
        frozenset(pair) for pair in (("red", "blue"), ("red", "(no label)"), ("blue", "(no label)"))
    }
