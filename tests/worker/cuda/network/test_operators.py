"""Every operator of a network on the emulated device, against the node cases that the onnx package ships."""

import pytest
from device_networks import check_case, quick_cases, supported_cases

from emulation import emulated_engine, needs_compiler
from groupconv_worker.cuda.network.operators import LOWER
from groupconv_worker.graph.graph import UnsupportedNodeError

pytestmark = needs_compiler
NO_CASES = {"AffineChannel", "Cast", "ChannelShuffle", "Not", "Receive", "Send", "Silu"}
"""Operators that test_networks.py and test_sharded.py have: their cases are of other elements, or ONNX has none."""


@pytest.fixture(scope="module")
def engine():
    with emulated_engine() as engine:
        yield engine


def tried(engine, by_operator, few=None):
    """How many cases of each operator agree; the others are refused with a reason."""
    agree = dict.fromkeys(by_operator, 0)
    for op, some in by_operator.items():
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
    return {op for op, count in agree.items() if count}, sum(agree.values())


def test_a_case_of_each_operator(engine):
    operators, _ = tried(engine, quick_cases(), few=1)
    assert operators | NO_CASES | {"AveragePool", "MaxPool"} == set(LOWER) | NO_CASES


@pytest.mark.slow
def test_all_cases_of_each_operator(engine):
    operators, count = tried(engine, supported_cases())
    assert operators | NO_CASES == set(LOWER)
    assert count > 400
