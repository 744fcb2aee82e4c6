"""The kernels under the sanitizers of g++: no access past any end, no undefined behaviour, no race."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulation import needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow, pytest.mark.timeout(900)]
TESTS = Path(__file__).parents[2]


def run_sanitized(sanitizer: str) -> subprocess.CompletedProcess[str]:
    runtime = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    found = subprocess.run(["g++", f"-print-file-name={runtime}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"g++ comes without {runtime}")
    settings = {
        "LD_PRELOAD": path,
        "PYTHONMALLOC": "malloc",  # Python's own allocator would hide where an array ends
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it interned
        "PYTHONPATH": str(TESTS),
    }
    command = [sys.executable, "-m", "emulation.sanitized", sanitizer]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_every_kind_of_kernel(sanitizer: str):
    done = run_sanitized(sanitizer)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kernels are clean" in done.stdout
