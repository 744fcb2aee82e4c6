"""Boxes: what lies outside of the needed box of an input does not change the wanted box of an output."""

import numpy as np
import onnxruntime
from fully_convolutional import image, networks
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv_worker.graph.importing import Optimized, UnboundGraphError
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.propagate import needed


@settings(max_examples=15)
@given(networks(), st.integers(9, 40), st.integers(9, 40), st.data())
def test_outside_of_the_needed_box_nothing_matters(proto, height, width, data):
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = image((1, channels, height, width))
    run = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    try:
        expected = run.run(None, {"x": x})[0]
        graph = Optimized(read_model(proto.SerializeToString())).bind({"x": x.shape})
    except UnboundGraphError:
        assume(False)
    except Exception:  # noqa: BLE001 - onnxruntime's: the layers do not fit one another at these extents
        assume(False)
    name = graph.outputs[0]
    assume(expected.size and graph.tensors[name].shape == expected.shape)
    ranges = []
    for extent in expected.shape:
        start = data.draw(st.integers(0, extent - 1))
        ranges.append(Range(start, data.draw(st.integers(start + 1, extent))))
    wanted = Box(tuple(ranges))
    box = needed(graph, {name: wanted})["x"]
    other = image(x.shape, seed=2)
    other[box.slices] = x[box.slices]
    np.testing.assert_array_equal(run.run([name], {"x": other})[0][wanted.slices], expected[wanted.slices])
