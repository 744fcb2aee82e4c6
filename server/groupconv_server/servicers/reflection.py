"""Server reflection, with the errors of the other services."""

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from groupconv_server.admission.errors import streams_errors

SERVICE = reflection.SERVICE_NAME


class ReflectionServicer(reflection.ReflectionServicer):
    """gRPC's reflection, but a message that cannot be decoded does not end a call with UNKNOWN."""

    def add_to(self, server: grpc.Server) -> None:
        """Serve the method."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    ServerReflectionInfo = streams_errors(reflection.ReflectionServicer.ServerReflectionInfo)
