"""Compiling and tuning beside the requests: none waits, each is right, and the next ones get what was prepared."""

import os
import subprocess
import sys

PRELUDE = """
import numpy as np
from numba.core import event
from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.compiler import COMPILER
from groupconv_worker.cpu.kernels.forms import FORMS
from groupconv_worker.job import Job
from groupconv_worker.reference import convolve
from groupconv_worker.resident import ResidentKey
from groupconv_worker.runtime import WorkerRuntime
from groupconv_worker.shard import Stage

runtime, rng, seen = WorkerRuntime("cpu", 1, 2**20), np.random.default_rng(0), []
compiled = event.RecordingListener()
event.register("numba:compile", compiled)

def request(kernel, dtype="float32", layer=None, wait=True):
    x = rng.standard_normal((1, 4, 60, 90)).astype(dtype)
    w = rng.standard_normal((4, 1, kernel, kernel)).astype(dtype)
    problem = Problem(resolve(ConvSpec(groups=4), x.shape, w.shape), types_of(x.dtype, w.dtype))
    out = np.empty(problem.geometry.output_shape, dtype)
    key = layer and ResidentKey(layer, 1, 0, ())
    (ran,) = runtime.run([Stage(problem, w, key=key)], x, out, Job())
    if layer is None:
        np.testing.assert_allclose(out, convolve(x, w, None, problem.geometry), rtol=1e-4, atol=1e-4)
    if wait:
        assert COMPILER.wait(240)
    seen.append(ran.algorithm.replace(" ", "-") + "*" * ran.improving)
"""
DONE = """
COMPILER.close()
print(*seen, len(compiled.buffer))
"""


def run(folder, program, **variables):
    """What a process with a cache folder prints."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(folder / "kernels"),
        "XDG_CACHE_HOME": str(folder),
        "GROUPCONV_COMPILER_NICE": "0",
        **variables,
    }
    command = [sys.executable, "-c", PRELUDE + program + DONE]
    return subprocess.run(command, env=environment, check=True, timeout=300, stdout=subprocess.PIPE, text=True).stdout


def test_a_request_waits_for_no_compiler_and_the_next_ones_have_what_it_made(tmp_path):
    """A form is compiled the second time that it is wanted, by another process; one that starts later finds it."""
    program = "for _ in range(3): request(3)"
    assert run(tmp_path, program).split() == ["onnxruntime", "onnxruntime*", "grouped", "0"]
    assert run(tmp_path, "request(3)").split() == ["grouped", "0"]


def test_beyond_the_limit_of_forms_general_algorithms_compute(tmp_path):
    program = """
for kernel, dtype in ((2, "float32"), *[(3, "float32")] * 3, *[(4, "float64")] * 3):
    request(kernel, dtype)
seen.append(str(FORMS.count))
"""
    general = "onnxruntime"
    expected = [general, general, f"{general}*", "grouped", "gemm", "gemm", "gemm", "1", "0"]
    assert run(tmp_path, program, GROUPCONV_KERNEL_FORMS="1").split() == expected


def test_a_layer_is_measured_beside_its_requests(tmp_path):
    """First what is there, then what was compiled for the layer, then the fastest; another process knows it at once."""
    program = """
while len(seen) < 2 or seen[-1].endswith("*"):  # it is measured again if something else had the processor
    request(5, layer="edges")
request(5, layer="edges")
"""
    first = run(tmp_path, program, GROUPCONV_TUNE="on").split()
    assert first[0] == "onnxruntime*"
    assert first[1].endswith("*")
    assert first[-3] == first[-2]
    assert first[-1] == "0"
    later = run(tmp_path, "request(5, layer='edges')", GROUPCONV_TUNE="on").split()
    assert [word.rstrip("*") for word in later] == [first[-2], "0"]  # it measures again what was never undisturbed


def test_a_cache_that_cannot_be_written_is_no_reason_to_do_without(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "groupconv-kernels").write_text("no folder can be made here")
    program = "for _ in range(3): request(3)"
    assert run(tmp_path, program).split()[:3] == ["onnxruntime", "onnxruntime*", "grouped"]


def test_a_process_that_is_killed_harms_nobody(tmp_path):
    program = """
import os, signal
request(3); request(3, wait=False)
while COMPILER.pid is None and not COMPILER.wait(0.01): pass
if COMPILER.pid: os.kill(COMPILER.pid, signal.SIGKILL)
assert COMPILER.wait(240)
request(3)
for _ in range(3): request(2)
"""
    seen = run(tmp_path, program).split()
    assert seen[:2] == ["onnxruntime", "onnxruntime*"]
    assert not seen[2].endswith("*")
    assert seen[-2] == "grouped"  # by another process
