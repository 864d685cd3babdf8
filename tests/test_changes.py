"""Two snapshots as a pair: of one boot, in order, and what could be compared of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from estimator.errors import UsageError
from estimator.ksm.predict import predict
from estimator.snapshot.changes import Changes, changed_mappings, known_changes
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system

BOOT, OTHER_BOOT = "0a1b", "2c3d"
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:30+00:00"


def picture(*contents: int | None, pid: int = 10, **info: Any) -> Snapshot:
    found = system([Process("web", [Area([*contents])], pid=pid)])
    about = {"source": {"kind": "live"}, "boot_id": BOOT, "collected_at": EARLY}
    return replace(found, info=found.info | about | info)


def refused(earlier: Snapshot, later: Snapshot) -> str:
    with pytest.raises(UsageError) as error:
        predict(earlier, later=later)
    assert error.value.hint
    return str(error.value)


def test_a_pair_of_one_boot_is_taken() -> None:
    first, second = picture(1, 2), picture(1, 3, collected_at=LATE)
    assert predict(first, later=second).coverage.changed_pages == 1
    renamed = picture(1, 3, host="container", collected_at=LATE)
    assert predict(first, later=renamed).coverage.changed_pages == 1


def test_another_boot_is_refused() -> None:
    second = picture(1, 3, boot_id=OTHER_BOOT, collected_at=LATE)
    assert "not of one boot of one system: the boot-ids differ" in refused(picture(1, 2), second)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"host": "elsewhere"}, "host example and host elsewhere"),
        ({"machine_id": "m2"}, "the machine-ids differ"),
        ({"kernel": {"release": "5.0"}}, "kernel 6.12"),
        ({"kernel": {"release": None, "build_id": "cd"}}, "build-id ab and build-id cd"),
    ],
)
def test_where_the_boot_is_not_known_other_facts_say_it(other: dict[str, Any], why: str) -> None:
    kernel = picture(1).info["kernel"] | {"build_id": "ab"}
    first = picture(1, 2, boot_id=None, machine_id="m1", kernel=kernel)
    if "host" in other:
        first.info["machine_id"] = None
    second = picture(1, 3, **({"boot_id": BOOT, "collected_at": LATE} | other))
    assert why in refused(first, second)


def test_what_is_not_known_refuses_nothing() -> None:
    first = picture(1, 2, boot_id=None)
    kernel = first.info["kernel"]
    second = picture(1, 3, host=None, kernel={k: kernel[k] for k in ("release", "page_size")})
    assert predict(first, later=second).coverage.changed_pages == 1


def test_the_very_same_picture_is_refused() -> None:
    assert "very same picture" in refused(picture(1, 2), picture(1, 2, collected_at=LATE))
    assert "very same picture" in refused(first := picture(1, None), first)


def test_the_reverse_order_is_refused() -> None:
    first, second = picture(1, 2, collected_at=LATE), picture(1, 3)
    assert "collected before" in refused(first, second)
    assert "the other order" in refused(first, second)


def test_the_order_in_which_dumps_were_collected_says_nothing() -> None:
    core = {"kind": "core"}
    first, second = picture(1, 2, collected_at=LATE, source=core), picture(1, 3, source=core)
    assert predict(first, later=second).coverage.changed_pages == 1


def at(seconds: Any) -> dict[str, Any]:
    """A dump of a kernel that is so old; collected in the wrong order."""
    kernel = picture(1).info["kernel"] | {"uptime_seconds": seconds}
    return {"kernel": kernel, "boot_id": None, "source": {"kind": "core"}}


def test_dumps_in_the_reverse_order_are_refused_by_the_kernels_clock() -> None:
    early, late = picture(1, 2, collected_at=LATE, **at(100)), picture(1, 3, **at(100.5))
    assert predict(early, later=late).coverage.changed_pages == 1
    text = refused(late, early)
    assert "an earlier moment than the other one (100.0 s after boot, 100.5 s)" in text
    assert "the other order" in text


@pytest.mark.parametrize("unknown", [None, "long ago", True])
def test_a_clock_that_is_not_known_refuses_no_dump(unknown: Any) -> None:
    first, second = picture(1, 2, **at(100)), picture(1, 3, **at(unknown))
    for earlier, later in ((first, second), (second, first)):
        assert predict(earlier, later=later).coverage.changed_pages == 1


def test_another_seed_is_refused_and_not_shown() -> None:
    first = picture(1, 2, hash={"name": "test", "seed": 123456789})
    second = picture(1, 3, hash={"name": "test", "seed": 987654321}, collected_at=LATE)
    text = refused(first, second)
    assert "collect LATER with --like FIRST.ksm" in text
    assert "123456789" not in text
    assert "987654321" not in text


def test_what_could_not_be_read_was_not_compared() -> None:
    found = changed_mappings(picture(1, None, 3, 4), picture(1, 2, None, 5))
    assert found.compared.tolist() == [True, False, False, True]
    assert found.changed.tolist() == [False, False, False, True]


def test_where_nothing_could_be_compared_the_numbers_are_upper_bounds() -> None:
    found = predict(picture(1, 1), later=picture(1, 2, pid=11, collected_at=LATE))
    assert found.coverage.compared_pages == 0
    assert "upper bounds" in found.warnings[-1]
    assert "Another look that has none of these pages" in found.warnings[-1]


def test_processes_may_be_in_another_order() -> None:
    web, db = Process("web", [Area([1, 2])], pid=10), Process("db", [Area([3, 4, 5])], pid=11)
    other = replace(db, areas=[Area([3, 4, 9])])
    first, later = system([web, db]), system([other, web])

    def turned(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
        return table.assign(**{name: table[name].to_numpy()[::-1] for name in columns})

    later = replace(
        later,
        processes=turned(later.processes, "start_time_ns"),
        vmas=turned(first.vmas, "start", "end"),
    )
    found = changed_mappings(first, later)
    assert found.changed.tolist() == [False, False, False, False, True]
    assert found.compared.all()


def test_what_changed_since_has_not_changed_only_before() -> None:
    none, all_ = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    both = Changes(none, all_, all_.copy())
    both.add(Changes(all_, all_, none))
    assert (both.changed.tolist(), both.changed_before.tolist()) == ([True], [False])


def test_one_snapshot_compares_nothing() -> None:
    assert known_changes(picture(1), None) is None
    assert predict(picture(1)).coverage.compared_pages is None
