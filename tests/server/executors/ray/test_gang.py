"""Networks cut over Ray workers: as one worker answers, past a deadline, and with workers that are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("gang_program.py")
TESTS = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_network_over_ray_workers():
    ran = subprocess.run(
        [sys.executable, str(PROGRAM)], env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("holds") == 3
