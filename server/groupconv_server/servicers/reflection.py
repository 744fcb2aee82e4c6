"""Server reflection."""

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

SERVICE = reflection.SERVICE_NAME


class ReflectionServicer(reflection.ReflectionServicer):
    """gRPC's reflection, added to a server."""

    def add_to(self, server: grpc.Server) -> None:
        """Serve the method."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)  # type: ignore[no-untyped-call]
