"""Every operator of a network on the emulated device, against the node cases that the onnx package ships."""

import pytest
from device_networks import check_case, supported_cases

from emulation import emulated_engine, needs_compiler
from groupconv_worker.cpu.network.lowering import UnsupportedNodeError
from groupconv_worker.cuda.network.operators import LOWER

pytestmark = needs_compiler
NO_CASES = {"AffineChannel", "Cast", "ChannelShuffle", "Not", "Silu"}
"""Operators that test_networks.py has: their cases are of other elements, or ONNX has none."""
FEW = 1
"""Cases of each operator that a short run tries."""


@pytest.fixture(scope="module")
def engine():
    with emulated_engine() as engine:
        yield engine


def tried(engine, few=None):
    """How many cases of each operator agree; the others are refused with a reason."""
    agree = dict.fromkeys(supported_cases(), 0)
    for op, some in supported_cases().items():
        for case in some:
            if agree[op] == few:
                break
            try:
                check_case(case, engine)
            except UnsupportedNodeError as refused:
                assert "does not run on the GPU: " in str(refused)  # noqa: PT017 - most cases are of other elements
            except Exception as error:
                raise AssertionError(case.name) from error
            else:
                agree[op] += 1
    return agree


def test_some_cases_of_each_operator(engine):
    agree = tried(engine, FEW)
    assert {op for op, count in agree.items() if not count} <= NO_CASES
    assert set(agree) | NO_CASES >= set(LOWER)


@pytest.mark.slow
def test_all_cases_of_each_operator(engine):
    assert sum(tried(engine).values()) > 400
