"""Server reflection whose failures become statuses like those of every other service."""

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from groupconv_server.admission.errors import streams_errors

SERVICE = reflection.SERVICE_NAME


class ReflectionServicer(reflection.ReflectionServicer):
    """gRPC's own. Without this, a message that cannot be decoded would end a call in UNKNOWN."""

    def add_to(self, server: grpc.Server) -> None:
        """Serve the RPC."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    ServerReflectionInfo = streams_errors(reflection.ReflectionServicer.ServerReflectionInfo)
