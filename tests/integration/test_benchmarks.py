"""Benchmarks that reach into the server run, at their smallest: what they print is nobody's measurement here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import LIGHT
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info
from onnx.numpy_helper import from_array

from emulation import needs_compiler
from groupconv_worker.cuda.engine import why_unavailable

ROOT = Path(__file__).parents[2]
SMALL = ["--rounds", "1", "--seconds", "0.05", "--layer", "mobilenet_dw_14"]
CUTS = ["--rounds", "1", "--throughput", "mobilenet_dw_112", "--layers", "mobilenet_dw_14"]


@pytest.mark.slow
@pytest.mark.timeout(320)  # the script has 300 s
@pytest.mark.parametrize(
    ("script", "options", "printed"),
    [
        ("accounting", [*SMALL, "--clients", "2"], "of its ceiling"),
        ("serving", [*SMALL, "--clients", "1", "2", "--bare", "--shared-memory"], "× the ceiling"),
        (
            "networks",
            ["--rounds", "1", "--seconds", "0.05", "--clients", "2", str(LIGHT / "light_squeezenet.onnx")],
            "req/s",
        ),
        ("soak", ["--requests", "200", "--processes", "2", "--shared-memory"], "server: MiB × "),
        ("cuts", CUTS, "chosen against the best"),
        ("gpu_networks", ["--dry-run", str(LIGHT / "light_squeezenet.onnx")], "launches"),
    ],
)
def test_benchmarks_run(script, options, printed):
    done = subprocess.run(
        [sys.executable, ROOT / f"bench/{script}.py", *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


@pytest.mark.slow
def test_the_day_with_a_device_is_ready(tmp_path):
    """Every step's tests are collected, without pytest-xdist as there, and its options are read."""
    script = [str(ROOT / "bench/device_day.sh"), "--dry-run", str(tmp_path)]
    variables = {"PYTHON": sys.executable, "PYTEST_ADDOPTS": "-p no:xdist"}
    done = subprocess.run(script, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = (tmp_path / "summary.txt").read_text().splitlines()
    assert len(steps) == 21
    assert all(" exit   0 " in step for step in steps)


EMULATED = {
    "device_arrays.py": ["--layer", "small", "--batch", "1", "2", "--rounds", "1", "--seconds", "0.05"],
    "gpu_networks.py": ["--rounds", "1", "{network}"],
}
"""Options that make the scripts of bench/device_day.sh small; tests/worker/cuda/test_benchmarks.py runs gpu.py."""


def test_every_script_of_a_day_with_a_device_is_run_here():
    scripts = re.findall(
        r"^ *(?:for .* do )?script \S+ \d+ (\S+)", (ROOT / "bench/device_day.sh").read_text(), re.MULTILINE
    )
    assert set(scripts) == {*EMULATED, "gpu.py", "two_workers_one_gpu.py"}  # the last one needs a Ray that sees a GPU


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("script", EMULATED)
def test_the_scripts_of_a_day_with_a_device_run_under_emulation(script, tmp_path):
    """With their servers and clients in processes of their own, all of which see an emulated GPU."""
    wide = [make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in "xy"]
    kernel = from_array(np.ones((4, 4, 3, 3), np.float32), "w")
    nodes = [make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), make_node("Relu", ["c"], ["y"])]
    network = tmp_path / "network.onnx"
    onnx.save(make_model(make_graph(nodes, "tiny", wide[:1], wide[1:], [kernel])), network)
    options = [option.format(network=network) for option in EMULATED[script]]
    paths = [ROOT / "tests/emulation/device", ROOT / "tests", ROOT / "bench"]
    variables = {"PYTHONPATH": ":".join(map(str, paths)), "GROUPCONV_TUNE": "off", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / script, *options],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if script == "device_arrays.py":
        rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| small")]
        assert [row[1] for row in rows] == ["1", "2"]
        assert all(float(figure.strip(" |")) > 0 for row in rows for figure in row[3:])
    else:
        assert "launches as one graph" in done.stdout


def test_what_a_day_with_a_device_has_no_time_for_is_listed(tmp_path):
    script = [str(ROOT / "bench/device_day.sh"), "--dry-run", str(tmp_path)]
    done = subprocess.run(script, env=os.environ | {"MINUTES": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    steps = (tmp_path / "summary.txt").read_text().splitlines()
    assert len(steps) == 21
    assert all("exit 125" in step and "the 0 minutes are over" in step for step in steps)
    limits = [int(re.search(r" of +(\d+):", step)[1]) for step in steps]
    assert sum(limits) <= 30 * 60
    assert sum(limits[:7]) <= 10 * 60  # with MINUTES=10 the first steps have their whole time


@pytest.mark.skipif(not why_unavailable(), reason="there is a device")
def test_a_day_without_a_device_says_what_is_missing(tmp_path):
    script = [str(ROOT / "bench/device_day.sh"), str(tmp_path)]
    done = subprocess.run(
        script, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{why_unavailable()}\n")


def test_a_day_without_the_packages_says_which_is_missing(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    script = [str(ROOT / "bench/device_day.sh"), str(tmp_path / "day")]
    done = subprocess.run(script, env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"No module named '\w+': make wheels with bench/device_day\.sh --pack, .+\n", done.stderr)


def test_tests_are_collected_without_pytest_xdist():
    """A machine with a device has only the packages that `bench/device_day.sh --pack` fetches."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run([*command, __file__], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
