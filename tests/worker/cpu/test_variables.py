"""Variables of a worker that are no value of theirs end the start, and name the variable."""

import os
import subprocess
import sys

import pytest

START = "from groupconv_worker.cpu.engine import CpuEngine; CpuEngine(threads=1)"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GROUPCONV_KERNEL_FORMS", "many", "an integer from 0 on"),
        ("GROUPCONV_KERNEL_FORMS", "", "an integer from 0 on"),
        ("GROUPCONV_KERNEL_FORMS", "-1", "an integer from 0 on"),
        ("GROUPCONV_COMPILER_NICE", "nice", "an integer from 0 to 19"),
        ("GROUPCONV_COMPILER_NICE", "20", "an integer from 0 to 19"),
        ("GROUPCONV_TUNE", "maybe", "on or off"),
        ("GROUPCONV_TUNE", "", "on or off"),
    ],
)
def test_a_wrong_variable_ends_the_start(name, value, expected):
    environ = os.environ | {name: value}
    done = subprocess.run([sys.executable, "-c", START], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"InvalidArgumentError: {name}: expected {expected}" in done.stderr
    assert repr(value) in done.stderr.splitlines()[-1]
