"""ModelStreamInfer: requests on one stream, answered in their order; one that fails does not end it."""

from collections.abc import Callable, Iterator

from groupconv.errors import GroupconvError
from groupconv_server.inference.messages import parse, streamed
from groupconv_server.inference.run import Inference
from groupconv_server.inference.tensors import parameter
from groupconv_server.inference.v2 import infer_pb2

WANTED = "triton_enable_empty_final_response"
"""The parameter of requests whose sender looks for the last answer."""


def answers(
    inference: Inference,
    requests: Iterator[bytes],
    deadline: float | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[bytes]:
    """An answer to each request, or why there is none, on the wire."""
    for raw in requests:
        request, contents = parse(raw)
        try:
            final = bool(parameter(request.parameters, WANTED, bool))
            yield streamed(inference.infer(request, contents, deadline, final=final, alive=alive))
        except GroupconvError as error:
            failed = infer_pb2.ModelInferResponse(id=request.id)
            yield infer_pb2.ModelStreamInferResponse(
                error_message=str(error), infer_response=failed
            ).SerializeToString()
