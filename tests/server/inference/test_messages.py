"""Requests of ModelInfer whose bytes beside the raw contents came before."""

import pytest

from groupconv_server.inference.messages import parse
from groupconv_server.inference.v2 import infer_pb2


def message(name: str, raw: list[bytes], request_id: str = "") -> bytes:
    """A request, serialized."""
    request = infer_pb2.ModelInferRequest(model_name=name, id=request_id, raw_input_contents=raw)
    request.inputs.add(name="x", datatype="FP32", shape=(len(raw[0]) // 4,))
    return request.SerializeToString()


def test_each_request_has_its_own_contents() -> None:
    for name, raw in (("edge", b"abcd"), ("edge", b"efgh"), ("ears", b"ijkl"), ("edge", b"mnop"), ("edge", b"q" * 8)):
        request, contents = parse(message(name, [raw]))
        assert (request.model_name, [bytes(c) for c in contents]) == (name, [raw])
        assert list(request.inputs[0].shape) == [len(raw) // 4]


def test_requests_that_differ_in_their_contents_share_a_message() -> None:
    first, _ = parse(message("shared", [b"abcd"]))
    assert parse(message("shared", [b"efgh"]))[0] is first


@pytest.mark.parametrize(("raw", "request_id"), [([b"abcd"], "7"), ([b"abcd", b"efgh"], "")])
def test_numbered_requests_and_those_with_several_contents_are_not_kept(raw: list[bytes], request_id: str) -> None:
    first, contents = parse(message("apart", raw, request_id))
    again, same = parse(message("apart", raw, request_id))
    assert again is not first
    assert again == first
    assert [bytes(c) for c in contents] == [bytes(c) for c in same] == raw
