"""Triton's perf_analyzer, unmodified, against a server, where bench/perf_analyzer.py has fetched it before."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / "build/out/perf_analyzer/perf_analyzer/bin/perf_analyzer"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not FETCHED.exists(), reason="python bench/perf_analyzer.py fetches perf_analyzer")
def test_perf_analyzer_with_and_without_shared_memory():
    options = ("--concurrency", "1:2", "--window", "1000", "--stability", "1000", "--layer", "mobilenet_dw_14")
    done = subprocess.run(
        [sys.executable, ROOT / "bench/perf_analyzer.py", *options],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (none|system) +\| (\d) +\| (\d+)", done.stdout, re.MULTILINE)
    assert [row[:2] for row in rows] == [("none", "1"), ("none", "2"), ("system", "1"), ("system", "2")]
    assert all(int(rate) > 0 for *_, rate in rows)
