"""Requests and answers of KServe's REST protocol to messages of GRPCInferenceService and back."""

import json
import re
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_server.inference.tensors import DATATYPES, datatype_of
from groupconv_server.inference.v2 import infer_pb2

HEADER_LENGTH = "inference-header-content-length"
"""Header with the bytes of JSON before binary tensors."""
JSON_BYTES = 4 * 2**20
"""Bytes of JSON, at most: its numbers take up to twenty times as much once they are parsed."""
JSON_ANSWER_BYTES = 16 * 2**20
"""Bytes of an answer that become JSON, at most: as text and numbers they take up to ten times as much."""
Wants = tuple[bool, frozenset[str]]
"""Whether all outputs are wanted as binary, and the names of single ones that are."""


def request_of(body: bytes, length: str | None) -> tuple[infer_pb2.ModelInferRequest, Wants]:
    r"""The message of a request's body, and which outputs are wanted as binary.

    Args:
        body: JSON, and binary tensors behind it.
        length: value of the header `HEADER_LENGTH`; None for JSON alone.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.

    Example:
        >>> body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}]}'
        >>> request_of(body, None)[0].raw_input_contents[0]
        b'\x00\x00\x80?\x00\x00\x00@'
    """
    cut = len(body)
    if length is not None:
        if not re.fullmatch("[0-9]{1,15}", length) or int(length) > len(body):
            raise InvalidArgumentError(HEADER_LENGTH, f"at most {len(body)}, the bytes of the body", length)
        cut = int(length)
    if cut > JSON_BYTES:
        raise InvalidArgumentError("body", f"at most {JSON_BYTES} bytes of JSON; larger tensors go as binary data", cut)
    text = body[:cut]
    try:
        body_of_request = json.loads(text.decode(json.detect_encoding(text)))
        if rb"\u" in text:  # an escape may be half of a surrogate pair, which is no text
            json.dumps(body_of_request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("body", "JSON", str(error)) from None
    body_of_request = _checked("body", body_of_request, dict)
    message = infer_pb2.ModelInferRequest(id=_checked("id", body_of_request.get("id", ""), str))
    _parameters(message.parameters, "parameters", body_of_request.get("parameters", {}), {"binary_data_output"})
    binary = memoryview(body)[cut:]
    for i, tensor in enumerate(_checked("inputs", body_of_request.get("inputs"), list)):
        binary = binary[_input(message, f"inputs[{i}]", tensor, binary) :]
    if len(binary):
        raise InvalidArgumentError("body", "no bytes behind the last binary tensor", f"{len(binary)} bytes")
    wanted = set()
    for i, output in enumerate(_checked("outputs", body_of_request.get("outputs", []), list)):
        path = f"outputs[{i}]"
        name = _checked(f"{path}.name", _checked(path, output, dict).get("name"), str)
        parameters = output.get("parameters", {})
        _parameters(message.outputs.add(name=name).parameters, f"{path}.parameters", parameters, {"binary_data"})
        if parameters.get("binary_data"):
            wanted.add(name)
    return message, (bool(body_of_request.get("parameters", {}).get("binary_data_output")), frozenset(wanted))


def answer_of(answer: infer_pb2.ModelInferResponse, wants: Wants) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers. A number that JSON has not, such as NaN, is null.

    Raises:
        ResourceExhaustedError: an answer that is too large for JSON.

    Example:
        >>> answer = infer_pb2.ModelInferResponse(raw_output_contents=[np.float32([1, np.nan]).tobytes()])
        >>> _ = answer.outputs.add(name="y", datatype="FP32", shape=[2])
        >>> json.loads(answer_of(answer, (False, frozenset()))[0])["outputs"][0]["data"]
        [1.0, None]
    """
    everything, names = wants
    outputs, binary, numbers = [], [], 0
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if everything or tensor.name in names:
            output["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            numbers += len(raw)
            if numbers > JSON_ANSWER_BYTES:
                why = f"outputs: {numbers} bytes, and JSON has at most {JSON_ANSWER_BYTES}: set binary_data_output"
                raise ResourceExhaustedError(why)
            values = np.frombuffer(raw, DATATYPES[tensor.datatype])
            if values.dtype.kind not in "biu":
                values = values.astype(np.float64)
            finite = np.isfinite(values)
            flat = values.tolist()
            output["data"] = flat if finite.all() else [v if ok else None for v, ok in zip(flat, finite, strict=True)]
        outputs.append(output)
    shown = {"model_name": answer.model_name, "model_version": answer.model_version, "outputs": outputs}
    if answer.id:
        shown["id"] = answer.id
    text = json.dumps(shown, allow_nan=False, separators=(",", ":")).encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *binary]), headers


def _input(message: infer_pb2.ModelInferRequest, path: str, tensor: Any, binary: memoryview) -> int:
    """Add an input to a message; returns how many bytes of the binary tensors it took."""
    values = _checked(path, tensor, dict)
    datatype = _checked(f"{path}.datatype", values.get("datatype"), str)
    dtype = datatype_of(datatype, path)
    shape = _checked(f"{path}.shape", values.get("shape"), list)
    try:
        added = message.inputs.add(
            name=_checked(f"{path}.name", values.get("name"), str), datatype=datatype, shape=shape
        )
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"{path}.shape", "integers", str(shape)[:80]) from None
    parameters = values.get("parameters", {})
    _parameters(added.parameters, f"{path}.parameters", parameters, {"binary_data_size"})
    size = parameters.get("binary_data_size")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
            raise InvalidArgumentError(f"{path}.parameters.binary_data_size", f"0 to {len(binary)}", size)
        message.raw_input_contents.append(bytes(binary[:size]))
        return size
    data = _checked(f"{path}.data", values.get("data"), list)
    message.raw_input_contents.append(_numbers(f"{path}.data", data, datatype, dtype))
    return 0


def _numbers(path: str, data: list[Any], datatype: str, dtype: np.dtype) -> bytes:
    """The bytes of numbers of JSON. NumPy alone would take null for NaN, and text for the number it spells.

    Raises:
        InvalidArgumentError: they are no numbers, not of one shape, or the datatype does not hold them.
    """
    expected = f"numbers of {datatype}, flat or nested"
    try:
        found = np.array(data)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(path, expected, str(error)) from None
    if found.dtype.kind not in ("biu" if dtype.kind == "b" else "iuf"):
        kinds = {"O": "null, or numbers that are too large", "U": "text", "b": "true or false"}
        raise InvalidArgumentError(path, expected, kinds.get(found.dtype.kind, str(found.dtype)))
    with np.errstate(over="ignore", invalid="ignore"):
        cast = found.astype(dtype)
        if dtype.kind in "biu" and (wrong := found[cast != found]).size:
            raise InvalidArgumentError(path, expected, wrong[0].item())
    return cast.tobytes()


def _parameters(into: Any, path: str, parameters: Any, own: set[str]) -> None:
    """Copy parameters, but those of the binary extension."""
    for name, value in _checked(path, parameters, dict).items():
        if name in own:
            continue
        if name.startswith("shared_memory"):
            raise InvalidArgumentError(f"{path}.{name}", "no shared memory on the web port", value)
        fields: dict[type, str] = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        field = fields.get(type(value))
        if field is None:
            raise InvalidArgumentError(f"{path}.{name}", "true, false, a number or text", str(value)[:80])
        try:
            setattr(into[name], field, value)
        except ValueError:
            raise InvalidArgumentError(f"{path}.{name}", "a number of 64 bits", value) from None


def _checked(path: str, value: Any, kind: type) -> Any:
    """The value, which must be of a kind."""
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "an array", str: "a text"}
        raise InvalidArgumentError(path, names[kind], "nothing" if value is None else str(value)[:80])
    return value
