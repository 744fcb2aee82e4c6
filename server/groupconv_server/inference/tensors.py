"""Tensors of the Open Inference Protocol: typed or raw or in shared memory, to arrays and back."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.errors import InvalidArgumentError
from groupconv.wire.requests import Array
from groupconv.wire.tensors import checked_shape
from groupconv_server.inference.messages import with_output
from groupconv_server.inference.v2 import infer_pb2, model_pb2
from groupconv_server.memory.cuda_memory import overlap

INPUT, OUTPUT = "x", "y"

DATATYPES: dict[str, np.dtype] = {
    "FP16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "FP32": DTYPES["float32"],
    "FP64": DTYPES["float64"],
    "INT8": DTYPES["int8"],
    "UINT8": DTYPES["uint8"],
    "INT32": DTYPES["int32"],
}
"""The protocol's names of the dtypes that travel."""
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT8": "int_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
}
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"

Parameters = Mapping[str, infer_pb2.InferParameter]


class Regions(Protocol):
    """Where regions are: bytes by the region's name."""

    def array(self, place: "RegionReference", dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        """The elements of a tensor that a client has put there."""

    def room(self, place: "RegionReference", dtype: np.dtype, shape: tuple[int, ...]) -> Array | None:
        """The place itself as an array to be filled; None if the answer has to be copied there."""

    def store(self, place: "RegionReference", size: int) -> Callable[[Array], None]:
        """What copies an answer of so many bytes there, even if the region is unregistered meanwhile."""


@dataclass(frozen=True, slots=True)
class RegionReference:
    """Where in shared memory a tensor is.

    Attributes:
        region: its name.
        offset, size: in bytes.
    """

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model's metadata says of a tensor.

    Attributes:
        dtype: of its elements.
        shape: with -1 for any extent.
    """

    dtype: np.dtype
    shape: tuple[int, ...]


def datatype_of(name: str, path: str) -> np.dtype:
    """The dtype of a datatype's name.

    Raises:
        InvalidArgumentError: one that does not travel.
    """
    dtype = DATATYPES.get(name)
    if dtype is None:
        raise InvalidArgumentError(f"{path}.datatype", f"one of {', '.join(DATATYPES)}", name)
    return dtype


def config_type(dtype: np.dtype) -> model_pb2.DataType.ValueType:
    """The dtype as a model's configuration names it."""
    return model_pb2.DataType.Value(f"TYPE_{NAMES[dtype]}")


def input_of(
    request: infer_pb2.ModelInferRequest, contents: Sequence[memoryview | bytes], memory: Regions, given: Kind
) -> Array:
    """The one input of a request, read-only unless it is in shared memory, where it is read in place.

    Args:
        request: without its raw contents.
        contents: those; one that lies aligned is not copied.
        memory: where regions are.
        given: what the model takes, by its metadata.

    Raises:
        InvalidArgumentError: another name or number of inputs, another datatype, a shape or count of bytes that does
            not fit, raw and typed contents mixed.
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
    size = math.prod(shape) * dtype.itemsize  # Python's integers do not overflow
    wanted = f"{size} bytes for input {INPUT!r} of {_shown(shape)} {tensor.datatype}"
    place = place_of(tensor.parameters, "inputs[0]")
    raw = len(contents)
    if raw != (place is None and not tensor.HasField("contents")):
        came = "in shared memory" if place else "typed" if tensor.HasField("contents") else "neither typed nor shared"
        expected = "one entry for each input that is neither typed nor in shared memory"
        raise InvalidArgumentError("raw_input_contents", expected, f"{raw}, the input is {came}")
    if place is not None:
        if tensor.HasField("contents"):
            raise InvalidArgumentError("inputs[0].contents", "none beside shared memory", "typed contents")
        if place.size != size:
            raise InvalidArgumentError(f"inputs[0].parameters.{_SIZE}", wanted, place.size)
        return memory.array(place, dtype, shape)
    if not raw:
        return _typed(tensor, dtype, shape)
    if len(contents[0]) != size:
        raise InvalidArgumentError("raw_input_contents[0]", wanted, len(contents[0]))
    x = np.frombuffer(contents[0], dtype=dtype).reshape(shape)
    return x if x.flags.aligned else x.copy()


def _typed(tensor: infer_pb2.ModelInferRequest.InferInputTensor, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidArgumentError("inputs[0].contents", f"raw contents for {tensor.datatype}", "typed ones")
    filled = [f.name for f, _ in tensor.contents.ListFields()]
    values = getattr(tensor.contents, field)
    if filled not in ([], [field]) or len(values) != math.prod(shape):
        wanted = f"{math.prod(shape)} elements in {field} for input {INPUT!r} of {_shown(shape)} {tensor.datatype}"
        raise InvalidArgumentError("inputs[0].contents", wanted, f"{len(values)} in {', '.join(filled) or 'none'}")
    wide = np.array(values, dtype=np.int64 if dtype.kind in "iu" else dtype)
    x = wide.astype(dtype)
    if dtype.kind in "iu" and (x != wide).any():
        raise InvalidArgumentError(
            "inputs[0].contents", f"elements that fit {tensor.datatype}", int(wide[x != wide][0])
        )
    return x.reshape(shape)


def place_of(parameters: Parameters, path: str) -> RegionReference | None:
    """Where in shared memory a tensor is said to be, if it is; None means in the message.

    Raises:
        InvalidArgumentError: a part of it missing or of another kind.
    """
    if not any(key in parameters for key in (_REGION, _OFFSET, _SIZE)):
        return None
    region = parameter(parameters, _REGION, str, path)
    size = parameter(parameters, _SIZE, int, path)
    if region is None or size is None:
        missing = _REGION if region is None else _SIZE
        raise InvalidArgumentError(f"{path}.parameters.{missing}", "one, as the others are given", None)
    return RegionReference(region, parameter(parameters, _OFFSET, int, path) or 0, size)


def parameter(parameters: Parameters, name: str, kind: type, path: str = "") -> Any:
    """The value of a parameter, None if it is not there.

    Raises:
        InvalidArgumentError: a value of another kind.
    """
    if name not in parameters:
        return None
    which = parameters[name].WhichOneof("parameter_choice")
    value = None if which is None else getattr(parameters[name], which)
    if type(value) is not kind:
        what = {int: "an integer", str: "a string", bool: "true or false"}[kind]
        raise InvalidArgumentError(f"{path}{'.' if path else ''}parameters.{name}", what, value)
    return value


def output_place(requested: Iterable[infer_pb2.ModelInferRequest.InferRequestedOutputTensor]) -> RegionReference | None:
    """Where the one output is wanted; None means in the message.

    Raises:
        InvalidArgumentError: an output the model does not have, or something done to it that is not offered.
    """
    wanted = list(requested)
    if [o.name for o in wanted] not in ([], [OUTPUT]):
        raise InvalidArgumentError("outputs", f"none, or one called {OUTPUT!r}", [o.name for o in wanted])
    if not wanted:
        return None
    if "classification" in wanted[0].parameters:
        raise InvalidArgumentError("outputs[0].parameters.classification", "none: outputs are tensors", "one")
    return place_of(wanted[0].parameters, "outputs[0]")


class Destination:
    """Where the one output of a request goes: `allocate` makes the array to be filled, `message` is then the answer.

    Args:
        place: in shared memory; None means in the message.
        memory: where regions are.
        x: the input; an output that is wanted where the input is takes a detour.
        response: the answer without its output.

    Raises:
        NotFoundError, InvalidArgumentError: from `allocate`, a region that is not there or has too few bytes.
    """

    def __init__(
        self, place: RegionReference | None, memory: Regions, x: Array, response: infer_pb2.ModelInferResponse
    ) -> None:
        self.place, self._memory, self._x, self._response = place, memory, x, response
        self._detour: Array | None = None
        self._store: Callable[[Array], None] | None = None
        self._message = b""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The place itself, in the message or in shared memory, if it can be filled there."""
        tensor = self._response.outputs.add(name=OUTPUT, datatype=NAMES[dtype], shape=shape)
        if self.place is None:
            self._message, y = with_output(self._response, dtype, shape)
            return y
        size = math.prod(shape) * dtype.itemsize
        if self.place.size < size:
            wanted = f"at least {size} bytes for output {OUTPUT!r} of {_shown(shape)} {NAMES[dtype]}"
            raise InvalidArgumentError(f"outputs[0].parameters.{_SIZE}", wanted, self.place.size)
        tensor.parameters[_REGION].string_param = self.place.region
        tensor.parameters[_SIZE].int64_param = size
        if self.place.offset:
            tensor.parameters[_OFFSET].int64_param = self.place.offset
        room = self._memory.room(self.place, dtype, shape)
        if room is not None and not overlap(room, self._x):
            return room
        self._store = self._memory.store(self.place, size)
        self._detour = np.empty(shape, dtype)
        return self._detour

    def message(self) -> bytes:
        """The answer on the wire, once the output is filled."""
        if self.place is None:
            return self._message
        if self._store is not None and self._detour is not None:
            self._store(self._detour)
        self._response.raw_output_contents.append(b"")  # Triton's C++ client reads one for every output, and crashes
        return self._response.SerializeToString()


def _shown(shape: Sequence[int], most: int = 64) -> str:
    return f"shape [{','.join(map(str, shape[:most]))}{',…' * (len(shape) > most)}]"
