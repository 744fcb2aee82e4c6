"""ModelStreamInfer: requests on one stream, answered in their order; one that fails does not end it."""

from collections.abc import Iterator

from groupconv.errors import GroupconvError
from groupconv_server.inference.run import Inference
from groupconv_server.inference.tensors import parameter
from groupconv_server.inference.v2 import infer_pb2

FINAL = "triton_final_response"
"""Said of an answer after which no other comes for its request: of every one."""
WANTED = "triton_enable_empty_final_response"
"""The parameter of requests whose sender looks for it."""


def answers(
    inference: Inference, requests: Iterator[infer_pb2.ModelInferRequest], deadline: float | None = None
) -> Iterator[infer_pb2.ModelStreamInferResponse]:
    """An answer to each request, or why there is none."""
    for request in requests:
        response = infer_pb2.ModelStreamInferResponse()
        try:
            inference.infer(request, response.infer_response, deadline)
            if parameter(request.parameters, WANTED, bool):
                response.infer_response.parameters[FINAL].bool_param = True
        except GroupconvError as error:
            response = infer_pb2.ModelStreamInferResponse(error_message=str(error))
            response.infer_response.id = request.id
        yield response
