"""Triton's C++ server with its Python backend around torch, from the wheel of nvidia-pytriton.

On the first run the wheel and torch are installed into a virtual environment in build/out/pytriton (or in the folder
that GROUPCONV_PYTRITON names). Nothing else is needed. The backend is the wheel's for the version of Python that runs
this. On a machine without a GPU, torch's build for CPUs is much smaller: GROUPCONV_PYTRITON_TORCH chooses it, as in
`torch==2.13.0+cpu`.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from groupconv_server.inference.v2 import service_pb2
from groupconv_server.layers.catalogue import catalogue

FOLDER = Path(os.environ.get("GROUPCONV_PYTRITON", Path(__file__).parents[1] / "build/out/pytriton"))
PACKAGES = ("nvidia-pytriton==0.7.0", os.environ.get("GROUPCONV_PYTRITON_TORCH", "torch>=2.9"))
INSTANCES = {"2 instances": (2, 1), "1 instance of 2 threads": (1, 2)}
"""Name of a configuration -> instances, and threads of each."""
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, -1, -1, -1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1, -1, -1, -1] }]
instance_group [{ count: %d kind: KIND_CPU }]
"""
MODEL = """
import os
import numpy as np
import torch
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(%(threads)d)
        there = os.path.join(args["model_repository"], args["model_version"], "weights.npz")
        arrays = np.load(there)
        self.weight, self.bias = (torch.from_numpy(arrays[name]) for name in ("w", "b"))

    def execute(self, requests):
        answers = []
        with torch.inference_mode():
            for request in requests:
                x = torch.from_numpy(triton.get_input_tensor_by_name(request, "x").as_numpy())
                y = torch.nn.functional.conv2d(x, self.weight, self.bias, **%(options)r)
                answers.append(triton.InferenceResponse([triton.Tensor("y", y.numpy())]))
        return answers
"""


def model_name(layer: str, configuration: str) -> str:
    """What Triton calls a layer in one of `INSTANCES`."""
    return f"{layer}.{'x'.join(map(str, INSTANCES[configuration]))}"


class Triton:
    """A running server with a model for each layer and configuration, until `close`."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        packages = _packages()
        self._models = tempfile.TemporaryDirectory(prefix="pytriton-")
        for layer in layers:
            for configuration in INSTANCES:
                _write_model(Path(self._models.name), layer, configuration)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        home = packages / "pytriton/tritonserver"
        command = [home / "bin/tritonserver", "--model-repository", self._models.name, "--grpc-port", str(port)]
        command += ["--backend-directory", home / "backends", "--allow-http", "0", "--allow-metrics", "0"]
        environment = {**os.environ, "PATH": f"{FOLDER / 'bin'}:{os.environ['PATH']}"}
        self._log = Path(self._models.name, "log").open("w+")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        self._wait()

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        self._log.close()
        self._models.cleanup()

    def _wait(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            while self.process.poll() is None:
                try:
                    answer = service_pb2.ServerReadyResponse.FromString(ready(b"", wait_for_ready=True, timeout=5))
                except grpc.RpcError:
                    continue
                if answer.ready:
                    return
                time.sleep(0.1)
        self._log.seek(0)
        raise SystemExit(self._log.read())


def _packages() -> Path:
    """The folder of the environment's packages, made if need be."""
    if not (FOLDER / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        subprocess.run([FOLDER / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    packages = FOLDER / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    home = packages / "pytriton/tritonserver"
    stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    shutil.copy(home / "python_backend_stubs" / stub, home / "backends/python")  # where the server looks for it
    (FOLDER / "ready").touch()
    return packages


def _write_model(folder: Path, layer: str, configuration: str) -> None:
    """A folder of Triton's model repository."""
    instances, threads = INSTANCES[configuration]
    taken = catalogue()[layer]
    _, w, b = taken.arrays()
    g = taken.geometry
    options = {"stride": g.stride, "padding": [low for low, _ in g.padding], "dilation": g.dilation, "groups": g.groups}
    version = folder / model_name(layer, configuration) / "1"
    version.mkdir(parents=True)
    np.savez(version / "weights.npz", w=w, b=b)
    (version / "model.py").write_text(MODEL % {"threads": threads, "options": options})
    (version.parent / "config.pbtxt").write_text(CONFIG % instances)
