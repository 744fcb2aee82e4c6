"""MemoryService: registers and unregisters the memory of clients."""

import grpc

from groupconv.v1 import memory_pb2, memory_pb2_grpc
from groupconv_server.memory.client_memory import ClientMemory


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """Registers and unregisters the memory of SDK clients.

    Args:
        memory: of the server's SDK clients.
    """

    def __init__(self, memory: ClientMemory) -> None:
        self._memory = memory

    def RegisterMemory(  # noqa: N802 - the RPC's name
        self, request: memory_pb2.RegisterMemoryRequest, context: grpc.ServicerContext
    ) -> memory_pb2.RegisterMemoryResponse:
        """Map a shared memory object."""
        region = self._memory.host.adopt(request.name, request.byte_size, request.proof, owner=context.peer())
        return memory_pb2.RegisterMemoryResponse(region=region)

    def RegisterDeviceMemory(  # noqa: N802 - the RPC's name
        self, request: memory_pb2.RegisterDeviceMemoryRequest, context: grpc.ServicerContext
    ) -> memory_pb2.RegisterDeviceMemoryResponse:
        """Open an allocation on a GPU."""
        memory = self._memory.device
        region = memory.adopt(request.handle, request.device_uuid, request.byte_size, owner=context.peer())
        return memory_pb2.RegisterDeviceMemoryResponse(region=region, channels_last=True)

    def UnregisterMemory(  # noqa: N802 - the RPC's name
        self,
        request: memory_pb2.UnregisterMemoryRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> memory_pb2.UnregisterMemoryResponse:
        """Drop a region."""
        memory = self._memory.device if self._memory.on_device(request.region) else self._memory.host
        memory.unregister(request.region)
        return memory_pb2.UnregisterMemoryResponse()
