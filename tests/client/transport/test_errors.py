"""What becomes of a failed call's status."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import groupconv
from groupconv.errors import UnavailableError


class Stopping(grpc.GenericRpcHandler):
    """Ends each call as gRPC ends those that arrive while the server stops."""

    def service(self, _details):
        return grpc.unary_unary_rpc_method_handler(lambda _request, context: context.cancel() or b"")


def test_a_call_that_reaches_a_server_as_it_stops_is_not_cancelled_but_may_be_sent_again():
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Stopping()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            groupconv.connect(f"127.0.0.1:{port}", timeout=60) as client,
            pytest.raises(UnavailableError, match="the server stopped while the call was on its way"),
        ):
            client.conv2d(np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 1, 1), np.float32))
    finally:
        server.stop(None)
