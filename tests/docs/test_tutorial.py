"""docs/tutorial.ipynb runs from the first cell to the last; its own assertions compare every variant with loops."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PAGE = Path(__file__).parents[2] / "docs/tutorial.ipynb"
VARIANTS = ["standard", "pointwise", "grouped", "depthwise"]
VARIANTS += ["depthwise separable", "spatially separable", "dilated", "transposed"]


def test_it_is_kept_without_outputs():
    cells = nbformat.read(PAGE, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_it_runs(tmp_path):
    notebook = nbformat.read(PAGE, as_version=4)
    NotebookClient(notebook, timeout=150, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert re.findall(r"^(.+?) +\(.*\) +error", text, re.MULTILINE) == VARIANTS
    assert "steps[0].spec.groups: expected" in text
    assert "the first tower alone is the first half of the whole" in text
    assert int(re.search(r"(\d+) bands", text)[1]) > 1
    assert any("text/html" in output.get("data", {}) for output in outputs)  # the plan is a picture here
