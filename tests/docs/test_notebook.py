"""The notebook of the quickstart runs from its first cell to its last, on fewer steps."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.places import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "quickstart.ipynb"
SMALL = """
RUN = "{run}"
STEPS = 1
PROBLEMS = 64
MORE = "--data.prompts_per_step 4 --group_size 4 --data.val_problems 16"
"""


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []


def test_the_notebook_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [settings] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    settings.source = SMALL.format(run=tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", os.devnull)
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    printed = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "step 1/1" in printed["train"]
    assert "log-probability" in printed["ask"], printed["ask"]
    results = next(cell for cell in notebook.cells if cell.id == "results")
    kinds = [{*output.data} for output in results.outputs]
    assert "text/markdown" in kinds[0]
    assert "image/png" in kinds[1]
    [table] = next(cell for cell in notebook.cells if cell.id == "groups").outputs
    assert table.data["text/html"].count("<tr") == 1 + 4, "a heading and a group"
