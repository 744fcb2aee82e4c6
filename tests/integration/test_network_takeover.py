"""A program takes over from onnxruntime in a worker of Ray, as it does in the server's process."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from compiled_networks import model
from onnx import helper

import groupconv
from waiting import until

X = np.random.default_rng(0).standard_normal((1, 64, 56, 56)).astype(np.float32)
SERVE = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--executor", "ray", "--workers", "1"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_program_takes_over_under_ray(tmp_path):
    """LRN takes onnxruntime several times as long."""
    data = model([helper.make_node("LRN", ["x"], ["y"], size=5)], {"x": X.shape})
    variables = {**os.environ, "GROUPCONV_TUNE": "on"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*SERVE, "--threads", "1"], stdout=subprocess.PIPE, stderr=log, env=variables)
    try:
        address = re.search(r"\S+:\d+", process.stdout.readline().decode()).group()
        with groupconv.connect(address, timeout=120) as client:
            net = client.load_network("lrn", data)
            first = net(X)

            def taken():
                result = net.run(X)
                np.testing.assert_allclose(result.outputs["y"], first, rtol=1e-4, atol=1e-5)
                return result.report.parts[0].algorithm == "groupconv"

            until(taken, 240, 0.2)
            assert any(node.seconds for node in net.plan(X.shape).nodes)
    finally:
        process.terminate()
        process.wait(60)
