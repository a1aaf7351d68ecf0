"""The notebook runs from top to bottom in a kernel, whose event loop is running, and prints what is stored in it."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "first_tree.ipynb"


def printed(cell: dict) -> str:
    return "".join("".join(o.text) for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


@pytest.mark.slow
def test_the_notebook_runs_and_its_stored_outputs_are_true(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    stored, run = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    nbclient.NotebookClient(
        run, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [printed(c) for c in run.cells if c.cell_type == "code"] == [
        printed(c) for c in stored.cells if c.cell_type == "code"
    ]
    assert "12 answers for" in "".join(printed(c) for c in run.cells if c.cell_type == "code")
    page = (tmp_path / "first_tree.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "From 38 reach 80" in page
