"""The notebook for many hosts runs, from 200 snapshots to a decision."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from scripts.bench_fleet import vary
from tests.fleets import write_fleet

NOTEBOOK = Path(__file__).parents[1] / "scripts" / "fleet.ipynb"
HOSTS = 200


def test_from_200_snapshots_to_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = write_fleet(tmp_path / "few", 4)
    fleet = vary(sorted(few.iterdir()), tmp_path / "fleet", HOSTS)
    (fleet / "half.ksm").mkdir()
    monkeypatch.setenv("KSM_FLEET", str(fleet))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "200 hosts counted, 1 snapshots not" in said
    decision = said.splitlines()[-1]
    assert decision.startswith("Opt in ")
    assert "job.service" not in decision
    assert {"web@*.service", "api.service"} == set(
        decision.removeprefix("Opt in ").split(":")[0].split(", ")
    )
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
