"""Operators against the cases that the onnx package tests backends with: all cases of the operators of a graph."""

import functools
import warnings

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from groupconv_worker.graph.attributes import CONSTANT_INPUTS
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.propagate import needed
from groupconv_worker.graph.operators.table import DEFINITIONS, run_reference

BECOME_OTHERS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Upsample", "Constant"}
"""Operators that become another one in a graph."""
NOT_OF_NETWORKS = {
    "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2", "string", "e8m0", "no_saturate",  # elements
    "FLOAT16", "BFLOAT16",  # of Cast: the reference has no rounding
    "identity_sequence", "identity_opt",  # no tensors
    "training",  # no inference
    "test_not_",  # of operator set 1
}  # fmt: skip
"""In names of cases that no graph can be made of."""
HALF = 8e-3
"""Relative rounding of bfloat16."""


@functools.cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    by_operator = {}
    for case in found:
        operators = {node.op_type for node in case.model.graph.node}
        if operators <= DEFINITIONS.keys() | BECOME_OTHERS and not any(word in case.name for word in NOT_OF_NETWORKS):
            by_operator.setdefault(min(operators), []).append(case)
    return by_operator


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def graph_and_inputs(case, inputs):
    """The graph of a case, whose shapes, axes and the like are constants as they are in networks."""
    proto = type(case.model)()
    proto.CopyFrom(case.model)
    given = dict(zip([value.name for value in proto.graph.input], map(array, inputs), strict=False))
    for node in proto.graph.node:
        for position in CONSTANT_INPUTS.get(node.op_type, {}):
            name = node.input[position] if position < len(node.input) else ""
            if name in given:
                proto.graph.initializer.append(numpy_helper.from_array(given.pop(name), name))
    model = read_model(proto.SerializeToString())
    return Optimized(model).bind({name: value.shape for name, value in given.items()}), given


def check(case):
    for inputs, outputs in case.data_sets:
        graph, given = graph_and_inputs(case, inputs)
        found = run_reference(graph, given)
        for name, wanted in zip(graph.outputs, map(array, outputs), strict=True):
            assert graph.tensors[name].dtype == wanted.dtype
            assert found[name].shape == wanted.shape
            if wanted.dtype.kind in "iub":
                np.testing.assert_array_equal(found[name], wanted)
            else:
                rtol = max(case.rtol, HALF if wanted.dtype.itemsize == 2 else 1e-4)
                np.testing.assert_allclose(found[name], wanted.astype(np.float64), rtol=rtol, atol=1e-5)


@pytest.mark.slow
def test_all_cases_of_our_operators():
    failed, passed = [], 0
    for of_operator in cases().values():
        for case in of_operator:
            try:
                check(case)
                passed += 1
            except Exception as error:  # noqa: BLE001 - each case is reported
                failed.append(f"{case.name}: {type(error).__name__} {str(error).strip()[:300]}")
    assert not failed, "\n".join(failed)
    assert passed > 700


@pytest.mark.slow
def test_outputs_depend_on_nothing_outside_of_the_needed_boxes():
    rng, failed, parts = np.random.default_rng(0), set(), 0
    for case in (case for of_operator in cases().values() for case in of_operator):
        graph, given = graph_and_inputs(case, case.data_sets[0][0])
        before = run_reference(graph, given)
        for name in (name for name in graph.outputs if before[name].size):
            box = Box.of(
                *((start := int(rng.integers(n)), int(rng.integers(start, n)) + 1) for n in before[name].shape)
            )
            boxes, other = needed(graph, {name: box}), {}
            for source, x in given.items():
                other[source] = x
                if x.ndim and x.dtype.kind == "f":  # others are positions
                    kept = boxes[source].slices if source in boxes else np.zeros(x.shape, bool)
                    other[source] = (rng.random(x.shape) + (x > 1)).astype(x.dtype)
                    other[source][kept] = x[kept]
                    parts += source in boxes and boxes[source].shape != x.shape
            after = run_reference(graph, other)[name]
            if not np.allclose(after[box.slices], before[name][box.slices], rtol=1e-9, equal_nan=True):
                failed.add(case.name)
    assert not failed
    assert parts > 200  # most operators read a part alone
