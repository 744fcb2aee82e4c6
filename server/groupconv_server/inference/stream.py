"""ModelStreamInfer: answers the requests of a stream in order. A request that fails does not end the stream."""

from collections.abc import Callable, Iterator

from groupconv.errors import GroupconvError
from groupconv_server.inference.messages import parse, streamed
from groupconv_server.inference.run import Inference
from groupconv_server.inference.tensors import parameter
from groupconv_server.inference.v2 import infer_pb2

WANTS_FINAL = "triton_enable_empty_final_response"
"""The parameter by which a request asks for the mark of the last answer."""


def answers(
    inference: Inference,
    requests: Iterator[bytes],
    deadline: float | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[bytes]:
    """The serialized answer or error of each request; arguments as of `Inference.infer`."""
    for raw in requests:
        request, contents = parse(raw)
        try:
            final = bool(parameter(request.parameters, WANTS_FINAL, bool))
            yield streamed(inference.infer(request, contents, deadline, final=final, alive=alive))
        except GroupconvError as error:
            failed = infer_pb2.ModelInferResponse(id=request.id)
            yield infer_pb2.ModelStreamInferResponse(
                error_message=str(error), infer_response=failed
            ).SerializeToString()
