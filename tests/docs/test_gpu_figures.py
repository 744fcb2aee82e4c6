"""What the pages say of several GPUs is what the planner's arithmetic gives."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![\w-])[\d,]+(?:\.\d+)?")


@pytest.fixture(scope="module")
def gpus():
    """bench/gpus.py."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        yield importlib.import_module("gpus")
    finally:
        sys.path.remove(str(ROOT / "bench"))


@pytest.mark.parametrize("page", ["deployment", pytest.param("scaling", marks=pytest.mark.slow)])
def test_a_page_has_the_figures_that_the_command_prints(gpus, page):
    """Each row with its words; the numbers may differ in a last digit, as a fit does on another processor."""
    rows = {words(row): row for row in (ROOT / f"docs/{page}.md").read_text().splitlines() if row.startswith("|")}
    printed = list(getattr(gpus, page)())
    assert len(printed) >= 4
    for row in printed:
        assert words(row) in rows, f"docs/{page}.md lacks the row {row}"
        assert numbers(rows[words(row)]) == pytest.approx(numbers(row), rel=0.02), row


def words(row: str) -> str:
    return NUMBER.sub("#", row)


def numbers(row: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(row)]
