"""ClusterService: what the server consists of."""

import time

import grpc

from groupconv import __version__
from groupconv.v1 import cluster_pb2, cluster_pb2_grpc
from groupconv_server.coordinator import Coordinator
from groupconv_server.servicers.errors import answers_errors


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Version, executor and workers."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    @answers_errors
    def GetCluster(  # noqa: N802 - the RPC's name
        self,
        request: cluster_pb2.GetClusterRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> cluster_pb2.GetClusterResponse:
        """The state of the server now."""
        c = self.coordinator
        return cluster_pb2.GetClusterResponse(
            version=__version__,
            executor=c.executor.name,
            workers=[
                cluster_pb2.Worker(
                    id=w.id,
                    node=w.node,
                    engine=w.engine,
                    device=w.device,
                    threads=w.threads,
                    shards=w.shards,
                    restarts=w.restarts,
                )
                for w in c.executor.describe()
            ],
            requests=c.requests,
            uptime_seconds=time.monotonic() - c.started,
            max_message_bytes=c.limits.message_bytes,
        )
