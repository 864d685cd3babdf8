"""The plan: what is proposed, in which words, and that its numbers are the model's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estimator.advice.plan import Plan, make_plan, restrict
from estimator.advice.risk import assess
from estimator.advice.schedule import PageCost, schedule
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.commands import opt_in_commands, settings_commands
from estimator.report.plan_sections import plan_words, settings_words
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


def test_madvise_where_only_part_of_a_process_pays() -> None:
    cache = Area(DATA, name="[anon:cache]")
    big = [service("db", cache, Area(unique(2000), name="")) for _ in range(2)]
    plan = make_plan(system(big))
    assert targets(plan) == {("vma", "/system.slice/db.service", "db", "[anon:cache]")}
    assert plan.prediction.counters["ksm_rmap_items"] == 400


def test_prctl_for_a_program_outside_of_services() -> None:
    plan = make_plan(system([Process("tool", [Area(DATA)], cgroup="/user.slice/s.scope")] * 2))
    assert targets(plan) == {("program", "/user.slice/s.scope", "tool", "")}


def test_what_a_service_inherits_leaves_out_its_stack() -> None:
    stack = Area(DATA[:10], name="[stack]")
    plan = make_plan(system([service("web", Area(DATA), stack)] * 2), share=1.0)
    assert plan.prediction.counters["ksm_rmap_items"] == 400
    assert plan.everything.counters["ksm_rmap_items"] == 420


def test_without_the_prctl_only_madvise_is_left() -> None:
    snapshot = system([service("web", Area(DATA))] * 2)
    features = snapshot.info["features"] | {"merge_any_prctl": False}
    plan = make_plan(replace(snapshot, info=snapshot.info | {"features": features}))
    assert plan.lines["means"].tolist() == ["vma"]


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
    assert "The kernel does not keep to that" in " ".join(plan_words(snapshot, inside))
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
    assert saved >= 0.9 * plan.everything.physical["bytes_saved"] / 4096
    assert plan.frontier["saved_pages"].is_monotonic_increasing


def test_ksm_that_does_not_pay_is_called_that() -> None:
    nothing = system([service("db", Area(unique(500)))])
    plan = make_plan(nothing)
    assert plan.lines.empty
    assert "would cost memory" in plan_words(nothing, plan)[0]
    little = system([service("db", Area([1, 1, 1, 1, *unique(1000)]))])
    assert "not worth it" in " ".join(plan_words(little, make_plan(little)))


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        make_plan(fork_server(), share=share)


def test_what_a_person_would_type() -> None:
    snapshot = system(
        [
            Process("web", [Area(DATA)], cgroup="/system.slice/a b$(x).service"),
            Process("evil */ x\x1b[2J", [Area(DATA)], cgroup="/machine.slice/c.scope"),
            Process(
                "desk",
                [Area(DATA)],
                cgroup="/user.slice/user-1000.slice/user@1000.service/app.slice/desk.service",
            ),
        ]
    )
    blocks = opt_in_commands(make_plan(snapshot, share=1.0).lines)
    text = "\n".join(sorted(blocks))
    assert "/etc/systemd/system/'a b$(x).service.d'" in text
    assert "systemctl restart 'a b$(x).service'" in text
    assert "~/.config/systemd/user/desk.service.d" in text
    assert "systemctl --user restart desk.service" in text
    assert "prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);" in text
    assert "\x1b" not in text
    assert "evil */" not in text


def test_settings_name_the_source_of_the_cost() -> None:
    snapshot = fork_server()
    prediction = make_plan(snapshot).prediction
    unknown = schedule(snapshot, prediction)
    assert "not known" in " ".join(settings_words(unknown))
    assert "scan-time > /sys/kernel/mm/ksm/advisor_mode" in settings_commands(unknown)
    given = schedule(snapshot, prediction, cost=PageCost(2e-6, "given"))
    assert "2 µs of CPU (given)" in " ".join(settings_words(given))
    assert given.advisor_too_eager
    assert given.proposed is not None
    assert settings_commands(given).splitlines() == [
        "echo none > /sys/kernel/mm/ksm/advisor_mode",
        f"echo {given.proposed.pages_to_scan} > /sys/kernel/mm/ksm/pages_to_scan",
        "echo 1 > /sys/kernel/mm/ksm/run",
    ]


def test_an_older_kernel_gets_pages_to_scan() -> None:
    snapshot = fork_server()
    info = snapshot.info | {"features": snapshot.info["features"] | {"advisor": False}}
    times = schedule(replace(snapshot, info=info), make_plan(snapshot).prediction, 0.5)
    assert times.proposed is not None
    assert times.proposed.seconds <= 0.5
    assert f"echo {times.proposed.pages_to_scan} > " in settings_commands(times)
    assert "advisor" not in settings_commands(times)


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
