"""Messages of ModelInfer, parsed and laid out so that protobuf does not copy tensors (see `groupconv.wire.codec`)."""

import math
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.wire.codec import ALIGNMENT, DecodeCache, allocate, varint
from groupconv.wire.scan import scan
from groupconv_server.inference.v2 import infer_pb2

_RAW_INPUT, _RAW_OUTPUT = 7, 6  # fields of ModelInferRequest and ModelInferResponse
_STREAMED = 2 << 3 | 2  # tag of ModelStreamInferResponse.infer_response
_PADDING = 15 << 3 | 2  # tag of an unknown field, which readers skip
_requests: DecodeCache[tuple[infer_pb2.ModelInferRequest, int]] = DecodeCache()  # and the bytes of the raw contents


def parse(raw: bytes) -> tuple[infer_pb2.ModelInferRequest, Sequence[memoryview | bytes]]:
    r"""A request without its raw contents, and the raw contents: a view of the message if there is only one.

    Requests that differ in their raw contents alone share one message, which nobody may change.

    Raises:
        InvalidArgumentError: the bytes are not a ModelInferRequest.

    Example:
        >>> request = infer_pb2.ModelInferRequest(model_name="edge", raw_input_contents=[b"abcd"])
        >>> small, contents = parse(request.SerializeToString())
        >>> small.model_name, [bytes(c) for c in contents]
        ('edge', [b'abcd'])
    """
    known = _requests.get(raw)
    if known is not None:
        (request, size), start = known
        return request, [memoryview(raw)[start : start + size]]
    small, found = scan(raw, (_RAW_INPUT,))
    single = found is not None and len(raw) - len(small) == 1 + len(varint(len(found))) + len(found)
    try:
        request = infer_pb2.ModelInferRequest.FromString(small if single else raw)
    except DecodeError:
        raise InvalidArgumentError("message", "a ModelInferRequest", f"{len(raw)} other bytes") from None
    if not single or found is None:
        return request, list(request.raw_input_contents)
    if not request.id:  # callers that number their requests send none twice
        _requests.put(raw, found, (request, len(found)))
    return request, [found]


def with_output(response: infer_pb2.ModelInferResponse, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[bytes, Array]:
    """A serialized answer, and the array inside it that the caller fills before it is sent.

    Args:
        response: the answer without its output.
        dtype: of the output.
        shape: of the output.

    Raises:
        InvalidArgumentError: the output is larger than a message can be.

    Example:
        >>> message, y = with_output(infer_pb2.ModelInferResponse(id="7"), np.dtype(np.float32), (2,))
        >>> y[...] = [1, 2]
        >>> answer = infer_pb2.ModelInferResponse.FromString(message)
        >>> answer.id, answer.raw_output_contents == [y.tobytes()]
        ('7', True)
    """
    size = math.prod(shape) * dtype.itemsize
    data = varint(_RAW_OUTPUT << 3 | 2) + varint(size)
    rest = response.SerializeToString()
    short = -(len(rest) + len(data)) % ALIGNMENT
    if 0 < short < 2:
        short += ALIGNMENT
    padding = bytes((_PADDING, short - 2)) + bytes(short - 2) if short else b""
    try:
        return allocate(rest + padding + data, dtype, shape)
    except ValueError:
        raise InvalidArgumentError("outputs[0]", "less than 2 GiB", f"{size} bytes") from None


def streamed(answer: bytes) -> bytes:
    """A serialized answer as a serialized ModelStreamInferResponse."""
    return bytes((_STREAMED,)) + varint(len(answer)) + answer
