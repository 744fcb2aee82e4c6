"""LayerService: LoadLayer, GetLayer, ListLayers and UnloadLayer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import grpc
import numpy as np

from groupconv.convolution.steps import Array, Step
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import layer_pb2, layer_pb2_grpc
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import type_to_wire
from groupconv_server.admission.call import deadline_of
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.steps import Shaped, inputs_of, steps_of
from groupconv_server.layers.names import check_name
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.uploads import Upload
from groupconv_server.layers.version import LayerVersion, Usage
from groupconv_worker.job import Job


class LayerServicer(layer_pb2_grpc.LayerServiceServicer):
    """Loads, describes and unloads resident layers."""

    def __init__(
        self,
        repository: Repository,
        limits: Limits,
        batch_sizes: Callable[[str, int], Mapping[int, int]] = lambda *_: {},
    ) -> None:
        self.repository, self.layers, self.limits = repository, repository.layers, limits
        self._batch_sizes = batch_sizes

    def LoadLayer(  # noqa: N802 - the RPC's name
        self,
        request_iterator: Iterator[layer_pb2.LoadLayerRequest],
        context: grpc.ServicerContext,
    ) -> layer_pb2.LoadLayerResponse:
        """Receive the header and the weights, prepare the layer, and make it the current version."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            got = "an empty stream" if first is None else first.WhichOneof("part")
            raise InvalidArgumentError("header", "a header as the first message", got)
        name = check_name(first.header.name)
        steps, inputs = steps_of(first.header, self.limits), inputs_of(first.header)
        size = sum(t.nbytes for step in steps for t in (step.kernel, step.bias) if t is not None)
        self.layers.check_fits(size)
        with self.layers.uploads.arriving() as arriving:
            filled = _filled(steps, size, request_iterator, arriving)
            loaded = self.repository.load(name, filled, inputs, job=Job(deadline_of(context), context.is_active))
        return layer_pb2.LoadLayerResponse(layer=self._described([loaded])[0])

    def GetLayer(  # noqa: N802 - the RPC's name
        self,
        request: layer_pb2.GetLayerRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> layer_pb2.GetLayerResponse:
        """Describe one layer."""
        return layer_pb2.GetLayerResponse(layer=self._described([self.layers.get(request.name)])[0])

    def ListLayers(  # noqa: N802 - the RPC's name
        self,
        request: layer_pb2.ListLayersRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> layer_pb2.ListLayersResponse:
        """Describe all layers."""
        return layer_pb2.ListLayersResponse(layers=self._described(self.layers.all()))

    def UnloadLayer(  # noqa: N802 - the RPC's name
        self,
        request: layer_pb2.UnloadLayerRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> layer_pb2.UnloadLayerResponse:
        """Unload a layer."""
        self.repository.unload(request.name)
        return layer_pb2.UnloadLayerResponse()

    def _described(self, layers: Sequence[LayerVersion]) -> list[layer_pb2.Layer]:
        return [self._message(*each) for each in zip(layers, self.layers.usages(layers), strict=True)]

    def _message(self, layer: LayerVersion, usage: Usage) -> layer_pb2.Layer:
        sizes = self._batch_sizes(layer.name, layer.version)
        return layer_pb2.Layer(
            name=layer.name,
            version=layer.version,
            steps=[
                layer_pb2.LayerStep(
                    kernel=type_to_wire(s.kernel.dtype, s.kernel.shape),
                    bias=None if s.bias is None else type_to_wire(s.bias.dtype, s.bias.shape),
                    spec=spec_to_wire(s.spec),
                )
                for s in layer.steps
            ],
            bytes=layer.bytes,
            requests=usage.requests,
            failures=usage.failures,
            samples=usage.samples,
            seconds=usage.seconds,
            batches=[layer_pb2.BatchRuns(samples=samples, runs=runs) for samples, runs in sizes.items()],
        )


def _filled(
    steps: list[Step], size: int, requests: Iterator[layer_pb2.LoadLayerRequest], arriving: Upload
) -> list[Step]:
    """The steps with read-only arrays, which the chunks must fill exactly."""
    weights = _Weights(size, _chunks(requests, arriving))
    filled = [
        replace(s, kernel=weights.array(s.kernel), bias=None if s.bias is None else weights.array(s.bias))
        for s in steps
    ]
    weights.end()
    return filled


class _Weights:
    """Cuts arrays from a stream of chunks. An array is allocated when its first byte has arrived."""

    def __init__(self, size: int, chunks: Iterator[bytes]) -> None:
        self._size, self._chunks = size, chunks
        self._left = memoryview(b"")
        self._received = 0

    def array(self, of: Shaped) -> Array:
        """The next array."""
        if of.nbytes:
            self._fill()
        array = np.empty(of.shape, dtype=of.dtype)
        rest = array.reshape(-1).view(np.uint8)
        while rest.size:
            self._fill()
            n = min(len(self._left), rest.size)
            rest[:n] = np.frombuffer(self._left[:n], dtype=np.uint8)
            rest, self._left = rest[n:], self._left[n:]
        array.setflags(write=False)
        return array

    def end(self) -> None:
        """Check that no bytes are left."""
        if self._left or any(self._chunks):
            raise InvalidArgumentError("chunk", f"{self._size} bytes of weights", "more")

    def _fill(self) -> None:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise InvalidArgumentError("chunk", f"{self._size} bytes of weights", f"{self._received} bytes")
            self._left = memoryview(chunk)
            self._received += len(chunk)


def _chunks(requests: Iterator[layer_pb2.LoadLayerRequest], arriving: Upload) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgumentError("chunk", "chunks after the header", request.WhichOneof("part"))
        arriving.add(len(request.chunk))
        yield request.chunk
