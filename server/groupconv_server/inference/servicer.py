"""GRPCInferenceService: the methods of the Open Inference Protocol v2, over resident layers."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from groupconv import __version__
from groupconv.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from groupconv_server.admission.call import deadline_of
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.inference import models, stream
from groupconv_server.inference.messages import parse
from groupconv_server.inference.networks import NetworkInference
from groupconv_server.inference.run import Inference
from groupconv_server.inference.statistics import ModelStatistics
from groupconv_server.inference.v2 import (
    model_pb2,
    repository_pb2,
    service_pb2,
    shared_memory_pb2,
    statistics_pb2,
)
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.version import Version
from groupconv_server.memory.client_memory import ClientMemory
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.memory.shared_memory import SharedMemory
from groupconv_server.networks.networks import Networks
from groupconv_worker.cuda.engine import why_unavailable
from groupconv_worker.job import Job

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = _SERVICE.full_name
EXTENSIONS = ("model_configuration", "model_repository", "statistics", "schedule_policy")


class InferenceServicer:
    """Serves resident layers as models. ModelInfer and ModelStreamInfer take and return serialized messages."""

    # The protocol names the methods and their arguments.
    # ruff: noqa: N802, ARG002

    def __init__(
        self,
        batcher: Batcher,
        repository: Repository,
        shared_memory: SharedMemory | None = None,
        cuda_memory: CudaMemory | None = None,
        *,
        networks: Networks,
        statistics: ModelStatistics | None = None,
    ) -> None:
        self.coordinator, self.repository, self.layers = batcher.coordinator, repository, repository.layers
        self.memory, self.statistics = ClientMemory(shared_memory, cuda_memory), statistics or ModelStatistics()
        network_inference = NetworkInference(networks, self.memory, self.statistics)
        self.inference = Inference(batcher, self.layers, self.memory, self.statistics, network_inference)
        self.extensions = [*EXTENSIONS]
        if shared_memory is not None:
            self.extensions.append("system_shared_memory")
        if cuda_memory is not None and not why_unavailable():
            self.extensions.append("cuda_shared_memory")

    def add_to(self, server: grpc.Server) -> None:
        """Serve the RPCs."""
        handlers = {method.name: self._handler(method) for method in _SERVICE.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _handler(self, method: MethodDescriptor) -> Any:
        behaviour = getattr(self, method.name)
        if method.name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(behaviour)
        if method.name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(behaviour)
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> service_pb2.ServerLiveResponse:
        """Always true: a server that answers is live."""
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> service_pb2.ServerReadyResponse:
        """Whether there is a worker."""
        return service_pb2.ServerReadyResponse(ready=bool(self.coordinator.executor.workers()))

    def ModelReady(
        self, request: model_pb2.ModelReadyRequest, context: grpc.ServicerContext
    ) -> model_pb2.ModelReadyResponse:
        """Whether a layer is loaded."""
        try:
            models.model(self.layers, request.name, request.version)
        except NotFoundError:
            return model_pb2.ModelReadyResponse(ready=False)
        return model_pb2.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> service_pb2.ServerMetadataResponse:
        """The server's name, version and extensions."""
        return service_pb2.ServerMetadataResponse(name=models.PLATFORM, version=__version__, extensions=self.extensions)

    def ModelMetadata(
        self, request: model_pb2.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> model_pb2.ModelMetadataResponse:
        """The input and output of a layer."""
        return models.metadata(models.model(self.layers, request.name, request.version))

    def ModelConfig(
        self, request: model_pb2.ModelConfigRequest, context: grpc.ServicerContext
    ) -> model_pb2.ModelConfigResponse:
        """The input and output of a layer, and the workers that run it."""
        layer = models.model(self.layers, request.name, request.version)
        return model_pb2.ModelConfigResponse(config=models.config(layer, self.coordinator.executor.describe()))

    def ModelInfer(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Run a layer."""
        return self.inference.infer(*parse(raw), deadline_of(context), alive=context.is_active)

    def ModelStreamInfer(self, request_iterator: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Run the requests of a stream, one after another."""
        return stream.answers(self.inference, request_iterator, deadline_of(context), context.is_active)

    def ModelStatistics(
        self, request: statistics_pb2.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> statistics_pb2.ModelStatisticsResponse:
        """Counts and times of one layer, or of all."""
        if not request.name:
            return self.statistics.message(self.layers.all(Version))
        return self.statistics.message([models.model(self.layers, request.name, request.version)])

    def RepositoryIndex(
        self, request: repository_pb2.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryIndexResponse:
        """The loaded layers and, unless only ready ones are wanted, those on disk alone."""
        response = repository_pb2.RepositoryIndexResponse()
        for layer in self.layers.all(Version):
            response.models.add(name=layer.name, version=str(layer.version), state="READY")
        if not request.ready:
            for name, reason in self.repository.unloaded().items():
                response.models.add(name=name, state="UNAVAILABLE", reason=reason)
        return response

    def RepositoryModelLoad(
        self, request: repository_pb2.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelLoadResponse:
        """Load a layer from disk, unless it is loaded. New weights come through LayerService."""
        if request.parameters:
            raise InvalidArgumentError("parameters", "none", sorted(request.parameters))
        self.repository.reload(request.model_name, job=Job(deadline_of(context), context.is_active))
        return repository_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: repository_pb2.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelUnloadResponse:
        """Unload a layer and keep its file on disk."""
        self.repository.unload(request.model_name, keep=True)
        return repository_pb2.RepositoryModelUnloadResponse()

    def SystemSharedMemoryStatus(
        self, request: shared_memory_pb2.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryStatusResponse:
        """The regions on the host. Only the owner of a region sees its key."""
        response = shared_memory_pb2.SystemSharedMemoryStatusResponse()
        for region in self.memory.host.regions(request.name):
            shown = response.regions[region.name]
            shown.name, shown.offset, shown.byte_size = region.name, region.offset, region.size
            shown.key = region.key if region.owner == context.peer() else ""
        return response

    def SystemSharedMemoryRegister(
        self, request: shared_memory_pb2.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryRegisterResponse:
        """Map a region of the host."""
        self.memory.host.register(request.name, request.key, request.offset, request.byte_size, owner=context.peer())
        return shared_memory_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: shared_memory_pb2.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryUnregisterResponse:
        """Drop one region, or all regions of the caller."""
        if request.name:
            self.memory.host.unregister(request.name)
        else:
            self.memory.host.unregister_all(context.peer())
        return shared_memory_pb2.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(
        self, request: shared_memory_pb2.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryStatusResponse:
        """The regions on devices."""
        response = shared_memory_pb2.CudaSharedMemoryStatusResponse()
        for region in self.memory.device.regions(request.name):
            shown = response.regions[region.name]
            shown.name, shown.device_id, shown.byte_size = region.name, region.device, region.size
        return response

    def CudaSharedMemoryRegister(
        self, request: shared_memory_pb2.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryRegisterResponse:
        """Open an allocation on a device."""
        self.memory.device.register(
            request.name, request.raw_handle, request.device_id, request.byte_size, owner=context.peer()
        )
        return shared_memory_pb2.CudaSharedMemoryRegisterResponse()

    def CudaSharedMemoryUnregister(
        self, request: shared_memory_pb2.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryUnregisterResponse:
        """Drop one region, or all regions of the caller."""
        if request.name:
            self.memory.device.unregister(request.name)
        else:
            self.memory.device.unregister_all(context.peer())
        return shared_memory_pb2.CudaSharedMemoryUnregisterResponse()

    def TraceSetting(self, request: Any, context: grpc.ServicerContext) -> service_pb2.TraceSettingResponse:
        """Refused: only the operator decides what is traced, and where to."""
        raise UnimplementedError("TraceSetting: the operator decides what is traced, at the start of the server")

    def LogSettings(self, request: Any, context: grpc.ServicerContext) -> service_pb2.LogSettingsResponse:
        """Refused: only the operator decides what is logged, and where to."""
        raise UnimplementedError("LogSettings: the operator decides what is logged, at the start of the server")
