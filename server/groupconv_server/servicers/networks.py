"""NetworkService: protobuf in, protobuf out, over `Networks`."""

from collections.abc import Iterator

import grpc

from groupconv.errors import InvalidArgumentError
from groupconv.text import human_bytes
from groupconv.v1 import network_pb2, network_pb2_grpc
from groupconv.wire.networks import (
    info_to_wire,
    plan_to_wire,
    report_to_wire,
    shapes_from_wire,
    tensor_from_wire,
    tensor_to_wire,
)
from groupconv_server.admission.call import deadline_of
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.networks import Networks, size_of
from groupconv_server.networks.store import LARGEST
from groupconv_worker.job import Job


class NetworkServicer(network_pb2_grpc.NetworkServiceServicer):
    """Loads, describes, plans, runs and unloads networks."""

    # ruff: noqa: N802, ARG002 - the RPCs' names, and a context that every RPC is given

    def __init__(self, networks: Networks) -> None:
        self._networks, self._registry = networks, networks.registry

    def LoadNetwork(
        self, request_iterator: Iterator[network_pb2.LoadNetworkRequest], context: grpc.ServicerContext
    ) -> network_pb2.LoadNetworkResponse:
        """Take the header, then the model, which is counted as it comes."""
        first = next(request_iterator, None)
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
        return network_pb2.LoadNetworkResponse(network=described(self._networks.load(header.name, data, inputs)))

    def GetNetwork(
        self, request: network_pb2.GetNetworkRequest, context: grpc.ServicerContext
    ) -> network_pb2.GetNetworkResponse:
        """Describe one."""
        return network_pb2.GetNetworkResponse(network=described(self._registry.get(request.name, NetworkVersion)))

    def ListNetworks(
        self, request: network_pb2.ListNetworksRequest, context: grpc.ServicerContext
    ) -> network_pb2.ListNetworksResponse:
        """Describe all."""
        return network_pb2.ListNetworksResponse(networks=map(described, self._registry.all(NetworkVersion)))

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
        return plan_to_wire(self._networks.plan(request.network, shapes_from_wire(request.inputs, "inputs")))

    def RunNetwork(
        self, request: network_pb2.RunNetworkRequest, context: grpc.ServicerContext
    ) -> network_pb2.RunNetworkResponse:
        """Run one."""
        if len(request.names) != len(request.inputs):
            raise InvalidArgumentError("names", f"{len(request.inputs)} names, one for each input", len(request.names))
        inputs = {
            name: tensor_from_wire(tensor, f"inputs[{i}]")
            for i, (name, tensor) in enumerate(zip(request.names, request.inputs, strict=True))
        }
        if len(inputs) < len(request.names):
            raise InvalidArgumentError("names", "each input once", sorted(request.names))
        job = Job(deadline_of(context), context.is_active)
        with self._registry.using(request.network, kind=NetworkVersion) as network:
            done = self._networks.run(network, inputs, request.outputs, job)
        return network_pb2.RunNetworkResponse(
            outputs=map(tensor_to_wire, done.arrays.values()),
            names=done.arrays,
            report=None if request.without_report else report_to_wire(done.report),
        )

    def _received(self, requests: Iterator[network_pb2.LoadNetworkRequest], size: int) -> bytes:
        data = bytearray()
        with self._registry.uploads.arriving() as arriving:
            for request in requests:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidArgumentError("chunk", "chunks after the header", request.WhichOneof("part"))
                arriving.add(len(request.chunk))
                data += request.chunk
                if len(data) > size:
                    raise InvalidArgumentError("chunk", f"{size} bytes, as header.byte_size says", "more")
        if len(data) < size:
            raise InvalidArgumentError("chunk", f"{size} bytes, as header.byte_size says", f"{len(data)} bytes")
        return bytes(data)


def described(network: NetworkVersion) -> network_pb2.Network:
    """A network as a message."""
    model, usage = network.model, network.usage
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
    )
