"""NetworkService: protobuf in, protobuf out, over `Networks`."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message_factory import GetMessageClass

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.networks.state import NetworkState
from groupconv.text import human_bytes
from groupconv.v1 import network_pb2
from groupconv.wire.chunks import parsed, unpacked
from groupconv.wire.networks import (
    info_to_wire,
    plan_to_wire,
    read_run_request,
    report_to_wire,
    shapes_from_wire,
    state_to_wire,
    tensor_space,
    with_tensors,
)
from groupconv.wire.streams import stream_plan_to_wire
from groupconv_server.admission.call import deadline_of
from groupconv_server.layers.version import NetworkVersion, Usage
from groupconv_server.networks.cuts import cuts_of
from groupconv_server.networks.networks import Networks, size_of
from groupconv_server.networks.store import LARGEST
from groupconv_worker.contract import Array
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import States

SMALL = 2**16
"""Bytes of a chunk of a model below which it is copied to those before it."""
SERVICE = network_pb2.DESCRIPTOR.services_by_name["NetworkService"]


class NetworkServicer:
    """Loads, describes, plans, runs and unloads networks."""

    # ruff: noqa: N802, ARG002 - the RPCs' names, and a context that every RPC is given

    def __init__(self, networks: Networks) -> None:
        self._networks, self._registry = networks, networks.registry

    def add_to(self, server: grpc.Server) -> None:
        """Serve the RPCs."""
        handlers: dict[str, Any] = {}
        for method in SERVICE.methods:
            behavior = getattr(self, method.name)
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            if method.name == "RunNetwork":
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(behavior)
            elif method.name == "LoadNetwork":
                handlers[method.name] = grpc.stream_unary_rpc_method_handler(
                    behavior, response_serializer=response.SerializeToString
                )
            else:
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    behavior, request.FromString, response.SerializeToString
                )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))

    def LoadNetwork(
        self, request_iterator: Iterator[bytes], context: grpc.ServicerContext
    ) -> network_pb2.LoadNetworkResponse:
        """Take the header, then the model, which is counted as it comes."""
        raw = next(request_iterator, None)
        first = None if raw is None else parsed(network_pb2.LoadNetworkRequest, raw)
        if first is None or first.WhichOneof("part") != "header":
            got = "an empty stream" if first is None else first.WhichOneof("part")
            raise InvalidArgumentError("header", "a header as the first message", got)
        header = first.header
        self._networks.check_name(header.name)
        if not 0 < header.byte_size < LARGEST:
            limit = human_bytes(LARGEST)
            raise InvalidArgumentError("header.byte_size", f"the size of an ONNX file below {limit}", header.byte_size)
        self._registry.check_fits(size_of(header.byte_size))
        inputs = [shapes_from_wire(s.inputs, f"header.inputs[{i}]") for i, s in enumerate(header.inputs)]
        data = self._received(request_iterator, header.byte_size)
        job = Job(deadline_of(context), context.is_active)
        loaded = self._networks.load(header.name, data, inputs, job=job)
        return network_pb2.LoadNetworkResponse(network=self._described([loaded], {})[0])

    def GetNetwork(
        self, request: network_pb2.GetNetworkRequest, context: grpc.ServicerContext
    ) -> network_pb2.GetNetworkResponse:
        """Describe one."""
        return network_pb2.GetNetworkResponse(
            network=self._described([self._registry.get(request.name, NetworkVersion)], self._networks.states())[0]
        )

    def ListNetworks(
        self, request: network_pb2.ListNetworksRequest, context: grpc.ServicerContext
    ) -> network_pb2.ListNetworksResponse:
        """Describe all."""
        networks = self._registry.all(NetworkVersion)
        return network_pb2.ListNetworksResponse(
            networks=self._described(networks, self._networks.states() if networks else {})
        )

    def UnloadNetwork(
        self, request: network_pb2.UnloadNetworkRequest, context: grpc.ServicerContext
    ) -> network_pb2.UnloadNetworkResponse:
        """Remove one."""
        self._networks.unload(request.name)
        return network_pb2.UnloadNetworkResponse()

    def PlanNetwork(
        self, request: network_pb2.PlanNetworkRequest, context: grpc.ServicerContext
    ) -> network_pb2.PlanNetworkResponse:
        """Say what a call would compute."""
        shapes = shapes_from_wire(request.inputs, "inputs")
        plan = self._networks.plan(request.network, shapes, request.workers, request.in_flight or 1, request.nodes or 1)
        return plan_to_wire(plan)

    def PlanNetworkStream(
        self, request: network_pb2.PlanNetworkStreamRequest, context: grpc.ServicerContext
    ) -> network_pb2.PlanNetworkStreamResponse:
        """Say how maps go through a network in windows."""
        if request.window_bytes < 0:
            raise InvalidArgumentError("window_bytes", "a number of bytes, or 0", request.window_bytes)
        shapes = shapes_from_wire(request.inputs, "inputs")
        plan = self._networks.plan_stream(request.network, shapes, request.outputs, request.window_bytes)
        return stream_plan_to_wire(plan)

    def RunNetwork(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        """Run one, bytes to bytes: a single input is read where gRPC put it, a single output is made in the answer."""
        request, arrays = read_run_request(raw)
        inputs = dict(zip(request.names, arrays, strict=False))
        if not len(inputs) == len(request.names) == len(arrays):
            raise InvalidArgumentError("names", f"{len(arrays)} names, one for each input", list(request.names))
        job = Job(deadline_of(context), context.is_active)
        spaces: list[tuple[bytes, Array]] = []

        def allocate(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
            rest = network_pb2.RunNetworkResponse(names=[name]).SerializeToString()
            spaces.append(tensor_space(1, dtype, shape, rest))
            return spaces[0][1]

        with self._registry.using(request.network, kind=NetworkVersion) as network:
            if request.version not in (0, network.version):
                raise FailedPreconditionError(
                    f"network {network.name} has version {network.version} now; version {request.version} is gone"
                )
            done = self._networks.calls.run(
                network,
                inputs,
                request.outputs,
                job,
                allocate if request.without_report else None,
                window=request.version != 0,
                cut=request.cut,
                given=cuts_of(request.cuts),
                times=request.times,
            )
        if spaces and spaces[0][1] is next(iter(done.arrays.values())):
            return spaces[0][0]
        report = None if request.without_report else report_to_wire(done.report)
        rest = network_pb2.RunNetworkResponse(names=done.arrays, report=report).SerializeToString()
        return with_tensors(1, done.arrays.values(), rest)

    def _described(self, networks: Sequence[NetworkVersion], states: States) -> list[network_pb2.Network]:
        return [
            described(network, usage, states.get((network.name, network.version), ()))
            for network, usage in zip(networks, self._registry.usages(networks), strict=True)
        ]

    def _received(self, requests: Iterator[bytes], size: int) -> bytes:
        pieces: list[bytes | bytearray | memoryview] = []  # one buffer that grows would be moved several times
        small = bytearray()  # as an object of Python takes more than a few bytes
        with self._registry.uploads.arriving() as arriving:
            for raw in requests:
                chunk: bytes | memoryview | None = unpacked(raw)
                if chunk is None:
                    request = parsed(network_pb2.LoadNetworkRequest, raw)
                    if request.WhichOneof("part") != "chunk":
                        raise InvalidArgumentError("chunk", "chunks after the header", request.WhichOneof("part"))
                    chunk = request.chunk
                arriving.add(len(chunk))
                if len(chunk) < SMALL:
                    small += chunk
                else:
                    pieces += [small, chunk]
                    small = bytearray()
                if arriving.bytes > size:
                    raise InvalidArgumentError("chunk", f"{size} bytes, as header.byte_size says", "more")
        if arriving.bytes < size:
            got = f"{arriving.bytes} bytes"
            raise InvalidArgumentError("chunk", f"{size} bytes, as header.byte_size says", got)
        return b"".join((*pieces, small))


def described(network: NetworkVersion, usage: Usage, states: Sequence[NetworkState]) -> network_pb2.Network:
    """A network as a message."""
    model = network.model
    return network_pb2.Network(
        name=network.name,
        version=network.version,
        inputs=map(info_to_wire, model.inputs),
        outputs=map(info_to_wire, model.outputs),
        nodes=model.nodes,
        weights=network.skeleton.weights,
        bytes=network.bytes,
        requests=usage.requests,
        failures=usage.failures,
        seconds=usage.seconds,
        states=map(state_to_wire, states),
    )
