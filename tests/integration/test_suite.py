"""`make test` itself: a test process that dies fails the run and does not hang it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIES = """
import os, signal, pytest

@pytest.mark.xdist_group("first")
@pytest.mark.parametrize("i", range(9))
def test_first(i):
    if i == 4:
        os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.xdist_group("second")
@pytest.mark.parametrize("i", range(9))
def test_second(i):
    pass
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(tmp_path):
    (tmp_path / "test_dies.py").write_text(DIES)
    recipe = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = next(line for line in recipe.splitlines() if "-m pytest" in line).partition("-m pytest")[2].split()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout[-2000:]
    assert "crashed while running" in done.stdout
