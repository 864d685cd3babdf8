"""Comparison of two predictions in their JSON form."""

from __future__ import annotations

import json

import pytest

from estimator.advice.compare import compare
from estimator.errors import UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
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
    assert programs.index.tolist() == ["cache", "gone", "web"]
    assert programs["processes_change"].to_dict() == {"cache": 1, "gone": -1, "web": 0}
    assert programs.loc["cache", "ksm_merging_pages_change"] == 10
    settings = comparison.settings.set_index("setting")
    assert list(settings.loc["policy.max_page_sharing"]) == [256, 128]


def test_something_else_is_no_prediction() -> None:
    good = prediction_json(predict(system([WEB]), Policy()))
    with pytest.raises(UsageError, match="second input is no prediction"):
        compare(good, {"counters": {}})
