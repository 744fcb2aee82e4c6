"""On a machine without CuPy or without a device the engine says so, in one line."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from groupconv.errors import FailedPreconditionError
from groupconv_worker.cuda.engine import why_unavailable
from groupconv_worker.engines import create_engine


def test_without_cupy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(FailedPreconditionError, match=r"^engine cuda: CuPy is not installed \(pip install"):
        create_engine("cuda")
    assert create_engine("auto").name == "cpu"


def test_without_a_device(monkeypatch: pytest.MonkeyPatch):
    driverless = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", driverless)
    with pytest.raises(FailedPreconditionError, match="CuPy finds no CUDA device or driver on this machine"):
        create_engine("cuda")


@pytest.mark.skipif(not why_unavailable(), reason="this machine has a CUDA device")
def test_serve_ends_with_one_line():
    command = [sys.executable, "-m", "groupconv_server", "serve", "--engine", "cuda", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines() == [f"groupconv: engine cuda: {why_unavailable()}"]


def test_a_server_loads_no_compiler_before_it_has_an_engine():
    program = "import sys, groupconv_server.server; print([m for m in ('numba', 'cupy', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
