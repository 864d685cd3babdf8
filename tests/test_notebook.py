"""The example notebook runs, and reports show themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from estimator.advice.compare import compare
from estimator.advice.plan import make_plan
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.report.notebook import show_comparison, show_plan, show_prediction
from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server

EXAMPLE = Path(__file__).parents[1] / "scripts" / "example.ipynb"


def run_example(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The outputs of the example notebook on a snapshot, from its first cell to its last."""
    monkeypatch.setenv("KSM_SNAPSHOT", str(snapshot))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE.parents[1]))
    notebook = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_example_goes_from_worth_it_to_which_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(fork_server(), tmp_path / "made-up.ksm")
    outputs = run_example(tmp_path / "made-up.ksm", monkeypatch)
    for words in ("KSM would free", "What to opt in"):
        shown = [o["data"] for o in outputs if words in o.get("data", {}).get("text/html", "")]
        assert len(shown) == 1
        assert words in shown[0]["text/plain"]
    assert all(output["output_type"] != "display_data" for output in outputs)
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert outputs[-1]["text"].startswith("/system.slice/app.service and /system.slice/batch")
    assert "of the saving" in outputs[-1]["text"]


def test_reports_show_themselves_as_html_and_text() -> None:
    snapshot = fork_server()
    prediction = predict(snapshot, Policy())
    answer = prediction_json(prediction)
    for display, words in (
        (show_prediction(snapshot, prediction), "KSM would free"),
        (show_plan(snapshot, make_plan(snapshot)), "MemoryKSM=yes"),
        (show_comparison(compare(answer, answer)), "B would free"),
    ):
        assert words in repr(display)
        html = display._repr_html_()
        assert words in html
        assert "<script" not in html
        assert "<button" not in html
        assert 'type="search"' not in html
