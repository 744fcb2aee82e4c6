"""Inputs and outputs of the Open Inference Protocol, without a server."""

import numpy as np
import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server.inference.tensors import Destination, Kind, input_of, output_reference, parameter, reference_of
from groupconv_server.inference.v2 import infer_pb2
from groupconv_server.memory.client_memory import ClientMemory, RegionReference

F32 = np.dtype(np.float32)
GIVEN = Kind(F32, (-1, 2, -1))


def request(shape=(1, 2, 3), datatype="FP32", **parameters):
    message = infer_pb2.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(tensor.parameters[name], field, value)
    return message


SHORT = request(shared_memory_region="a", shared_memory_byte_size=23)


def test_raw_and_typed_contents_are_the_same_array():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    raw = input_of(request(), [x.tobytes()], ClientMemory(), GIVEN)
    typed = request()
    typed.inputs[0].contents.fp32_contents.extend(x.ravel())
    np.testing.assert_array_equal(raw, x)
    np.testing.assert_array_equal(input_of(typed, [], ClientMemory(), GIVEN), x)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_raw_contents_are_not_copied_wherever_they_lie(start):
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    message = bytes(start) + x.tobytes()
    raw = input_of(request(), [memoryview(message)[start:]], ClientMemory(), GIVEN)
    np.testing.assert_array_equal(raw, x)
    assert np.shares_memory(raw, np.frombuffer(message, np.uint8))


@pytest.mark.parametrize(
    ("message", "contents", "field"),
    [
        (request(datatype="FP64"), [b"\0" * 48], "inputs[0].datatype"),
        (request((1, 3, 3)), [b"\0" * 36], "inputs[0].shape"),
        (request(), [b"\0" * 23], "raw_input_contents[0]"),
        (request(), [], "raw_input_contents"),
        (SHORT, [], "inputs[0].parameters.shared_memory_byte_size"),
        (infer_pb2.ModelInferRequest(), [], "inputs"),
    ],
)
def test_what_does_not_fit_names_its_field(message, contents, field):
    with pytest.raises(InvalidArgumentError) as caught:
        input_of(message, contents, ClientMemory(), GIVEN)
    assert caught.value.field == field


def test_a_reference_needs_its_region_and_its_size():
    full = request(shared_memory_region="a", shared_memory_byte_size=24, shared_memory_offset=8).inputs[0].parameters
    assert reference_of(full, "inputs[0]") == RegionReference("a", 8, 24)
    assert reference_of(request().inputs[0].parameters, "inputs[0]") is None
    with pytest.raises(InvalidArgumentError, match="shared_memory_byte_size"):
        reference_of(request(shared_memory_region="a").inputs[0].parameters, "inputs[0]")
    with pytest.raises(InvalidArgumentError, match="an integer"):
        parameter(full, "shared_memory_region", int)


def test_an_output_is_named_y_and_never_classified():
    message = infer_pb2.ModelInferRequest()
    assert output_reference(message.outputs) is None
    message.outputs.add(name="y").parameters["classification"].int64_param = 1
    with pytest.raises(InvalidArgumentError, match="classification"):
        output_reference(message.outputs)
    with pytest.raises(InvalidArgumentError, match="outputs"):
        output_reference([infer_pb2.ModelInferRequest.InferRequestedOutputTensor(name="z")])


def test_an_output_in_the_message_is_filled_there():
    answer = Destination(None, ClientMemory(), np.zeros(1), infer_pb2.ModelInferResponse(id="7"))
    answer.allocate((1, 2), F32)[...] = [[1, 2]]
    message = infer_pb2.ModelInferResponse.FromString(answer.message())
    assert message.id == "7"
    assert list(message.outputs[0].shape) == [1, 2]
    assert np.frombuffer(message.raw_output_contents[0], np.float32).tolist() == [1, 2]
