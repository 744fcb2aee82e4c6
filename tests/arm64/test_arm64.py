"""The project on 64-bit ARM: `make test-arm64`. Emulated, so it is slow, but every instruction is NEON's."""

import os
from pathlib import Path

import pytest

from arm64.sysroot import PROJECT, Sysroot
from debian import UnavailableError

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("GROUPCONV_ARM64_FOLDER", PROJECT / "build/out/arm64"))
"""Where packages and compiled kernels stay for the next run: 600 MB."""


@pytest.fixture(scope="module")
def sysroot() -> Sysroot:
    try:
        return Sysroot(FOLDER)
    except UnavailableError as error:
        pytest.skip(f"no ARM64 root folder can be made: {error}")


def passed(sysroot: Sysroot, *arguments: str | Path) -> str:
    """What a program wrote, which must have succeeded."""
    done = sysroot.run(*arguments, timeout=1700)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("threads", ["1", "2"])
def test_every_algorithm_agrees_with_the_reference_and_stays_in_its_output(sysroot: Sysroot, threads: str):
    assert "11 of 11 agree" in passed(sysroot, HERE / "algorithms.py", threads)


def test_a_server_answers_and_names_its_processor(sysroot: Sysroot):
    assert "served by cpu: ARM (implementer 0x41, part 0xd0c" in passed(sysroot, HERE / "served.py")


def test_threads_meet_and_sleep_as_on_x86(sysroot: Sysroot):
    """ARM orders memory less strictly than x86, and its futex has another number. The emulator keeps x86's order."""
    tests = [PROJECT / "tests/worker" / name for name in ("cpu/test_threads.py", "test_budget.py")]
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "900",
        "--rootdir",
        PROJECT,
        "-c",
        PROJECT / "pyproject.toml",
    )
    assert " passed" in passed(sysroot, "-m", "pytest", *options, *tests)
