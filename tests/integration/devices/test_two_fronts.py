"""GPUs behind several front processes: one worker process has each, and the fronts reach all of them by lanes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emulation import needs_compiler
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.engines import create_engine
from tasks import task_of

PROGRAM = Path(__file__).with_name("two_fronts.py")


@pytest.mark.slow
@needs_compiler
@pytest.mark.timeout(260)  # the program has 240 s
@pytest.mark.parametrize("visible", ["0", "4,6"])
def test_two_processes_reach_each_device_by_its_worker_which_is_replaced(visible):
    count = len(visible.split(","))
    env = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "CUDA_VISIBLE_DEVICES": visible}
    ran = subprocess.run([sys.executable, PROGRAM], env=env, capture_output=True, text=True, timeout=240, check=True)
    saw = json.loads(ran.stdout)
    assert saw["devices"] == [f"GPU {i}" for i in range(count)]
    assert saw["restarts"] == [0] * (count - 1) + [1]
    assert (saw["engines"], saw["used"], saw["processes"]) == (["cuda"] * count, count, 2)
    x, w = np.arange(144, dtype=np.float32).reshape(1, 4, 6, 6), np.ones((4, 2, 3, 3), np.float32)
    (stage,) = task_of(x, w, spec=ConvSpec(groups=2)).stages
    want = np.empty(stage.problem.geometry.output_shape, np.float32)
    create_engine("reference").prepare(stage.problem, w).run(x, want)
    assert len(saw["answers"]) == 16
    for answer in saw["answers"]:
        np.testing.assert_allclose(answer, want, rtol=1e-5)
