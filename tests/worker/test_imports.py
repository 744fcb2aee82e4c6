"""What a start costs: libraries that few requests need are loaded by the first that does."""

import subprocess
import sys

import pytest

LATER = {
    "groupconv_server.cli.app": {"ray", "numba", "scipy", "onnxruntime", "matplotlib", "locust"},
    "groupconv_server.server": {"ray", "numba", "scipy.special", "scipy.fft", "scipy.linalg", "matplotlib"},
    "groupconv_worker.actor": {"numba", "scipy.special", "scipy.fft", "scipy.linalg"},
    "groupconv_worker.cpu.engine": {"ray", "scipy.special", "scipy.fft", "scipy.linalg"},
}


@pytest.mark.parametrize("module", LATER)
def test_a_start_loads_no_library_that_it_does_not_need(module):
    program = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert not LATER[module] & set(ran.stdout.split())
