"""Tensors of the Open Inference Protocol (typed, raw or in a region of shared memory) to arrays and back."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import NETWORK_DTYPES
from groupconv.wire.tensors import checked_shape
from groupconv_server.inference.messages import with_output
from groupconv_server.inference.v2 import infer_pb2, model_pb2
from groupconv_server.memory.client_memory import ClientMemory, RegionOutput, RegionReference

INPUT, OUTPUT = "x", "y"

DATATYPES: dict[str, np.dtype] = {
    "FP16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "FP32": DTYPES["float32"],
    "FP64": DTYPES["float64"],
    "INT8": DTYPES["int8"],
    "UINT8": DTYPES["uint8"],
    "INT32": DTYPES["int32"],
    "INT64": NETWORK_DTYPES["int64"],
    "BOOL": NETWORK_DTYPES["bool"],
    "INT16": NETWORK_DTYPES["int16"],
    "UINT16": NETWORK_DTYPES["uint16"],
    "UINT32": NETWORK_DTYPES["uint32"],
    "UINT64": NETWORK_DTYPES["uint64"],
}
"""The protocol's datatypes and their dtypes."""
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT8": "int_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
    "INT16": "int_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"

Parameters = Mapping[str, infer_pb2.InferParameter]


@dataclass(frozen=True, slots=True)
class Kind:
    """The dtype and shape of a model's tensor, as its metadata has them.

    Attributes:
        dtype: of the elements.
        shape: -1 stands for any extent.
    """

    dtype: np.dtype
    shape: tuple[int, ...]


def datatype_of(name: str, path: str) -> np.dtype:
    """The dtype that the protocol calls `name`; `path` is the tensor's field.

    Raises:
        InvalidArgumentError: there is no such dtype here.
    """
    dtype = DATATYPES.get(name)
    if dtype is None:
        raise InvalidArgumentError(f"{path}.datatype", f"one of {', '.join(DATATYPES)}", name)
    return dtype


def config_type(dtype: np.dtype) -> model_pb2.DataType.ValueType:
    """The value of a dtype in a model's configuration."""
    return model_pb2.DataType.Value(f"TYPE_{NAMES[dtype]}")


def input_of(
    request: infer_pb2.ModelInferRequest, contents: Sequence[memoryview | bytes], memory: ClientMemory, given: Kind
) -> Array:
    """The input of a request. Raw contents are not copied, so their elements may lie unaligned.

    Args:
        request: without its raw contents.
        contents: the raw contents.
        memory: of the server's clients.
        given: the model's input.

    Raises:
        InvalidArgumentError: the inputs' names, the datatype, the shape or the number of bytes do not fit the model,
            or there are both raw and typed contents.
        NotFoundError: there is no such region.
    """
    if [t.name for t in request.inputs] != [INPUT]:
        raise InvalidArgumentError("inputs", f"one, called {INPUT!r}", [t.name for t in request.inputs])
    tensor = request.inputs[0]
    dtype, shape = datatype_of(tensor.datatype, "inputs[0]"), tuple(tensor.shape)
    if dtype != given.dtype and not (dtype.kind in "iu" and given.dtype.kind in "iu"):
        raise InvalidArgumentError("inputs[0].datatype", f"{NAMES[given.dtype]}, the model's", tensor.datatype)
    if len(shape) != len(given.shape) or shape[1] != given.shape[1]:
        expected = f"{_shown(given.shape)}, the model's (batch, channels, space; -1 is any extent)"
        raise InvalidArgumentError("inputs[0].shape", expected, _shown(shape, most=8))
    checked_shape(shape, "inputs[0].shape", batch=True)
    at = reference_of(tensor.parameters, "inputs[0]")
    raw = len(contents)
    if raw != (at is None and not tensor.HasField("contents")):
        came = "in shared memory" if at else "typed" if tensor.HasField("contents") else "neither typed nor shared"
        expected = "one entry for each input that is neither typed nor in shared memory"
        raise InvalidArgumentError("raw_input_contents", expected, f"{raw}, the input is {came}")
    return array_of(tensor, "inputs[0]", dtype, shape, contents[0] if raw else None, memory)


def array_of(
    tensor: infer_pb2.ModelInferRequest.InferInputTensor,
    path: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    raw: memoryview | bytes | None,
    memory: ClientMemory,
) -> Array:
    """The array of an input: in shared memory, raw or typed. Raw contents are not copied, even if they lie unaligned.

    Args:
        tensor: the input.
        path: what errors call it.
        dtype: of its elements.
        shape: extents.
        raw: its raw contents; None if it has none.
        memory: of the server's clients.

    Raises:
        InvalidArgumentError: an extent below 0, or another number of bytes or elements than the shape has.
        NotFoundError: there is no such region.
    """
    if any(extent < 0 for extent in shape):
        raise InvalidArgumentError(f"{path}.shape", "extents of at least 0", _shown(shape, most=8))
    size = math.prod(shape) * dtype.itemsize
    at = reference_of(tensor.parameters, path)
    if at is not None:
        if tensor.HasField("contents"):
            raise InvalidArgumentError(f"{path}.contents", "none beside shared memory", "typed contents")
        if at.size != size:
            raise InvalidArgumentError(f"{path}.parameters.{_SIZE}", _bytes_of(tensor, shape, size), at.size)
        return memory.array(at, dtype, shape)
    if raw is None:
        return _typed(tensor, path, dtype, shape)
    if len(raw) != size:
        expected = _bytes_of(tensor, shape, size)
        raise InvalidArgumentError(path.replace("inputs", "raw_input_contents"), expected, len(raw))
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _bytes_of(tensor: infer_pb2.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], size: int) -> str:
    return f"{size} bytes for input {tensor.name!r} of {_shown(shape)} {tensor.datatype}"


def mark_in_region(tensor: infer_pb2.ModelInferResponse.InferOutputTensor, at: RegionReference, size: int) -> None:
    """Say in an answer that an output of so many bytes lies in the client's memory."""
    tensor.parameters[_REGION].string_param = at.region
    tensor.parameters[_SIZE].int64_param = size
    if at.offset:
        tensor.parameters[_OFFSET].int64_param = at.offset


def _typed(
    tensor: infer_pb2.ModelInferRequest.InferInputTensor, path: str, dtype: np.dtype, shape: tuple[int, ...]
) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidArgumentError(f"{path}.contents", f"raw contents for {tensor.datatype}", "typed ones")
    filled = [f.name for f, _ in tensor.contents.ListFields()]
    values = getattr(tensor.contents, field)
    if filled not in ([], [field]) or len(values) != math.prod(shape):
        wanted = (
            f"{math.prod(shape)} elements in {field} for input {tensor.name!r} of {_shown(shape)} {tensor.datatype}"
        )
        raise InvalidArgumentError(f"{path}.contents", wanted, f"{len(values)} in {', '.join(filled) or 'none'}")
    wide = np.array(values, dtype=np.int64 if dtype.kind in "iu" and dtype != np.uint64 else dtype)
    x = wide.astype(dtype)
    if dtype.kind in "iu" and (x != wide).any():
        raise InvalidArgumentError(f"{path}.contents", f"elements that fit {tensor.datatype}", int(wide[x != wide][0]))
    return x.reshape(shape)


def reference_of(parameters: Parameters, path: str) -> RegionReference | None:
    """The region reference in a tensor's parameters; None if the tensor is in the message.

    Raises:
        InvalidArgumentError: the region or the size is missing, or a value is of another type.
    """
    if not parameters or not any(key in parameters for key in (_REGION, _OFFSET, _SIZE)):
        return None
    region = parameter(parameters, _REGION, str, path)
    size = parameter(parameters, _SIZE, int, path)
    if region is None or size is None:
        missing = _REGION if region is None else _SIZE
        raise InvalidArgumentError(
            f"{path}.parameters.{missing}", "a value beside the other shared memory parameters", None
        )
    return RegionReference(region, parameter(parameters, _OFFSET, int, path) or 0, size)


def parameter(parameters: Parameters, name: str, kind: type, path: str = "") -> Any:
    """The value of a parameter; None if it is absent.

    Raises:
        InvalidArgumentError: the value is not of type `kind`.
    """
    if not parameters or name not in parameters:
        return None
    which = parameters[name].WhichOneof("parameter_choice")
    value = None if which is None else getattr(parameters[name], which)
    if type(value) is not kind:
        what = {int: "an integer", str: "a string", bool: "true or false"}[kind]
        raise InvalidArgumentError(f"{path}{'.' if path else ''}parameters.{name}", what, value)
    return value


def output_reference(
    requested: Iterable[infer_pb2.ModelInferRequest.InferRequestedOutputTensor],
) -> RegionReference | None:
    """Where the client wants the output in its memory; None means in the message.

    Raises:
        InvalidArgumentError: the model has no such output, or the request asks for classification.
    """
    wanted = list(requested)
    if [o.name for o in wanted] not in ([], [OUTPUT]):
        raise InvalidArgumentError("outputs", f"none, or one called {OUTPUT!r}", [o.name for o in wanted])
    if not wanted:
        return None
    if "classification" in wanted[0].parameters:
        raise InvalidArgumentError("outputs[0].parameters.classification", "none: outputs are tensors", "one")
    return reference_of(wanted[0].parameters, "outputs[0]")


class Destination:
    """Where the output of a request goes: `allocate` makes the array to be filled, then `message` makes the answer.

    Args:
        at: where the client wants the output in its memory; None means in the message.
        memory: of the server's clients.
        x: the input, which the output may overlap.
        response: the answer without its output.
    """

    def __init__(
        self, at: RegionReference | None, memory: ClientMemory, x: Array, response: infer_pb2.ModelInferResponse
    ) -> None:
        self.at, self._memory, self._x, self._response = at, memory, x, response
        self._output: RegionOutput | None = None
        self._message = b""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The array to be filled: in the message, in the client's memory, or one that is copied there.

        Raises:
            NotFoundError: there is no such region.
            InvalidArgumentError: too few bytes for the output, or bytes outside the region.
        """
        tensor = self._response.outputs.add(name=OUTPUT, datatype=NAMES[dtype], shape=shape)
        if self.at is None:
            self._message, y = with_output(self._response, dtype, shape)
            return y
        size = math.prod(shape) * dtype.itemsize
        self._output = self._memory.output(self.at, dtype, shape, [self._x])
        if self._output is None:
            wanted = f"at least {size} bytes for output {OUTPUT!r} of {_shown(shape)} {NAMES[dtype]}"
            raise InvalidArgumentError(f"outputs[0].parameters.{_SIZE}", wanted, self.at.size)
        mark_in_region(tensor, self.at, size)
        return self._output.array

    def message(self) -> bytes:
        """The answer on the wire, once the output is filled."""
        if self._output is None:
            return self._message
        self._output.store()
        # Triton's C++ client reads one raw content for each output, and crashes where there is none
        self._response.raw_output_contents.append(b"")
        return self._response.SerializeToString()


def _shown(shape: Sequence[int], most: int = 64) -> str:
    return f"shape [{','.join(map(str, shape[:most]))}{',…' * (len(shape) > most)}]"
