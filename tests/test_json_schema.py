"""The JSON of a prediction is what docs/schemas/prediction.schema.json says, and stays so."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import estimator
from tests.schemas import check, objects
from tests.synthetic import System, folio
from tests.systems import Area, Process, fork_server, system

FORMAT_1 = Path(__file__).parent / "data" / "prediction_1.json"
OLD_SNAPSHOT = Path(__file__).parent / "data" / "format_1.ksm"


def huge() -> Snapshot:
    made = System()
    made.thp_enabled = "always"
    made.process(*folio([7, 0, 0, 9]))
    made.process(*folio([7, None, 3, 4])[:3])
    return made.snapshot()


@pytest.mark.parametrize(
    ("snapshot", "policy"),
    [
        (fork_server(), Policy()),
        (fork_server(), Policy(comms=("worker",), use_zero_pages=True)),
        (system([]), Policy()),
        (system([Process("db", [Area([1, 2, 3])])]), Policy(scope="enabled")),
        (huge(), Policy()),
        (open_snapshot(OLD_SNAPSHOT), Policy()),
    ],
    ids=["forks", "selected", "nobody", "not opted in", "huge pages", "format 1"],
)
def test_predictions_are_as_the_schema_says(snapshot: Snapshot, policy: Policy) -> None:
    check("prediction", json.loads(json.dumps(prediction_json(predict(snapshot, policy)))))


def test_the_schema_names_every_field() -> None:
    answer = prediction_json(predict(fork_server(), Policy()))
    seen = set()
    for where, part, value in objects("prediction", answer):
        seen.add(where)
        assert set(value) <= set(part["properties"]), where
    lists = {".processes[]", ".vmas[]", ".cgroups[]", ".units[]", ".excluded[]", ".contents[]"}
    assert lists | {".contents[].holders[]", ".pairs.process[]", ".pairs.service[]"} <= seen


def test_fields_of_the_first_format_stay() -> None:
    """A file from when format 1 was made: the schema takes it, and wants all its fields of others.

    The file is never written again: it is what others have read.
    """
    old = json.loads(FORMAT_1.read_text())
    check("prediction", old)
    for where, part, value in objects("prediction", old):
        assert set(value) <= set(part["required"]), where


def test_a_wrong_answer_is_noticed() -> None:
    answer = json.loads(json.dumps(prediction_json(predict(fork_server(), Policy()))))
    answer["processes"][0]["saved_pages"] = None
    with pytest.raises(jsonschema.ValidationError, match="None is not of type 'number'"):
        check("prediction", answer)


def test_report_and_predict_print_the_same_json(tmp_path: Path) -> None:
    path = tmp_path / "fork.ksm"
    write_snapshot(fork_server(), path)
    report, predicted = (estimator(c, path, "--json").stdout for c in ("report", "predict"))
    assert report == predicted
    check("prediction", json.loads(report))
    refused = estimator("report", path, "--json", "--html", tmp_path / "a.html")
    assert (refused.returncode, refused.stdout) == (2, "")
