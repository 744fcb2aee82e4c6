"""Cuts in ONNX files: what is written is read, and onnxruntime and ONNX's checker take the file."""

import numpy as np
import onnx
import onnxruntime
from fully_convolutional import image, unet
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.cut import Cut, even
from groupconv_worker.graph.partition.partition import partition
from groupconv_worker.graph.partition.sharding import KEY, read_cuts, write_cuts

DATA = unet(levels=2, base=4).SerializeToString()
GRAPH = Optimized(read_model(DATA)).canonical({"x": (2, 2, 16, 12)})


def boxes_of(cut):
    return [None if box is None else [tuple(r) for r in box.ranges] for box in cut.boxes]


def cuts_of(choose, workers):
    return {name: choose(GRAPH.tensors[name].shape, workers) for name in GRAPH.makers}


def written(cuts, workers, data=DATA):
    return write_cuts(data, {name: boxes_of(cut) for name, cut in cuts.items()}, workers)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.data())
def test_what_is_written_is_read(workers, data):
    def choose(shape, workers):
        axis = data.draw(st.sampled_from([None, *(a for a, extent in enumerate(shape) if extent > 1)]))
        if axis is None:
            return data.draw(st.sampled_from([Cut.on(shape, workers, workers - 1), Cut.replicated(shape, workers)]))
        inner = sorted(data.draw(st.integers(0, shape[axis])) for _ in range(workers - 1))
        return Cut.along(shape, axis, (0, *inner, shape[axis]))

    cuts = cuts_of(choose, workers)
    assert read_cuts(written(cuts, workers), GRAPH) == {workers: cuts}


def test_even_cuts_are_specs_that_other_tools_read():
    cuts = cuts_of(lambda shape, workers: Cut.along(shape, 3, even(shape[3], workers)), 2)
    model = onnx.ModelProto.FromString(written(cuts, 2))
    onnx.checker.check_model(model)
    for node in model.graph.node:
        for spec in node.device_configurations[0].sharding_spec:
            assert list(spec.device) == [0, 1]
            assert spec.sharded_dim[0].axis == 3
            assert spec.sharded_dim[0].simple_sharding[0].num_shards == 2
        del node.metadata_props[:]
    assert read_cuts(model.SerializeToString(), GRAPH) == {2: cuts}


def test_cuts_for_two_numbers_of_workers_stay_apart():
    two = cuts_of(lambda shape, workers: Cut.along(shape, 2, even(shape[2], workers)), 2)
    three = cuts_of(lambda shape, workers: Cut.replicated(shape, workers), 3)
    again = cuts_of(lambda shape, workers: Cut.on(shape, workers), 2)
    data = written(again, 2, written(three, 3, written(two, 2)))
    assert read_cuts(data, GRAPH) == {2: again, 3: three}
    partition(GRAPH, read_cuts(data, GRAPH)[3], 3)


def test_the_file_runs_as_before():
    cuts = cuts_of(lambda shape, workers: Cut.along(shape, 2, even(shape[2], workers)), 3)
    x = image((2, 2, 16, 12))
    before, after = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for data in (DATA, written(cuts, 3))
    )
    np.testing.assert_array_equal(before, after)


def test_what_does_not_fit_is_left_out():
    cuts = cuts_of(lambda shape, workers: Cut.along(shape, 2, even(shape[2], workers)), 2)
    model = onnx.ModelProto.FromString(written(cuts, 2))
    other = Optimized(read_model(DATA)).canonical({"x": (2, 2, 32, 12)})
    for node in model.graph.node:
        del node.device_configurations[:]
    assert read_cuts(model.SerializeToString(), other) == {}
    for text in (
        '{"2": {"x": 5}, "-1": [], "many": {}}',
        "[" * 100_000,
        '{"2": {"conv0": [[[0, Infinity]], null]}}',
        "9",
    ):
        for node in model.graph.node:
            for found in node.metadata_props:
                found.value = text if found.key == KEY else found.value
        assert read_cuts(model.SerializeToString(), GRAPH) == {}
