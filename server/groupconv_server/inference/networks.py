"""Networks as models of the protocol, under the names of their own tensors."""

import time
from collections.abc import Mapping, Sequence

from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import TensorInfo
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.inference.messages import with_output
from groupconv_server.inference.statistics import ModelStatistics, PhaseTimes
from groupconv_server.inference.tensors import (
    NAMES,
    array_of,
    config_type,
    datatype_of,
    mark_in_region,
    reference_of,
)
from groupconv_server.inference.v2 import infer_pb2, model_pb2
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.memory.client_memory import ClientMemory, RegionReference
from groupconv_server.networks.networks import Networks
from groupconv_worker.contract import Array
from groupconv_worker.job import Job

PLATFORM = "groupconv"


def metadata(network: NetworkVersion) -> model_pb2.ModelMetadataResponse:
    """The inputs and outputs of a network; -1 is any extent."""
    tensor = model_pb2.ModelMetadataResponse.TensorMetadata
    inputs, outputs = (
        [tensor(name=info.name, datatype=NAMES[info.dtype], shape=_dims(info)) for info in infos]
        for infos in (network.model.inputs, network.model.outputs)
    )
    return model_pb2.ModelMetadataResponse(
        name=network.name, versions=[str(network.version)], platform=PLATFORM, inputs=inputs, outputs=outputs
    )


def config(network: NetworkVersion, workers: Sequence[WorkerInfo]) -> model_pb2.ModelConfig:
    """The same as a model's configuration. Batches are an axis of the shapes, as in the model."""
    group = model_pb2.ModelInstanceGroup
    return model_pb2.ModelConfig(
        name=network.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        input=[
            model_pb2.ModelInput(name=info.name, data_type=config_type(info.dtype), dims=_dims(info))
            for info in network.model.inputs
        ],
        output=[
            model_pb2.ModelOutput(name=info.name, data_type=config_type(info.dtype), dims=_dims(info))
            for info in network.model.outputs
        ],
        instance_group=[group(name="workers", count=len(workers), kind=group.KIND_CPU)],
        model_transaction_policy=model_pb2.ModelTransactionPolicy(decoupled=False),
    )


class NetworkInference:
    """Runs requests of the protocol on networks.

    Args:
        networks: of the server.
        memory: of its clients.
        statistics: counts each request.
    """

    def __init__(self, networks: Networks, memory: ClientMemory, statistics: ModelStatistics) -> None:
        self._networks, self._memory, self._statistics = networks, memory, statistics

    def infer(
        self,
        network: NetworkVersion,
        request: infer_pb2.ModelInferRequest,
        contents: Sequence[memoryview | bytes],
        response: infer_pb2.ModelInferResponse,
        job: Job,
        start: float,
    ) -> bytes:
        """Run one request.

        Args:
            network: a version that is kept for this request.
            request: without its raw contents.
            contents: the raw contents.
            response: the answer without its outputs.
            job: of the caller.
            start: when the request came, on the clock of time.perf_counter().

        Returns:
            A ModelInferResponse on the wire.

        Raises:
            InvalidArgumentError: the inputs or outputs do not fit the network.
            NotFoundError: there is no such region.
        """
        inputs = self._inputs(request, contents)
        references = _references(request)
        ready = time.perf_counter()
        done = self._networks.calls.run(network, inputs, list(references), job)
        ran = time.perf_counter()
        message = self._answer(done.arrays, references, list(inputs.values()), response)
        end = time.perf_counter()
        first = next(iter(inputs.values()), None)
        samples = first.shape[0] if first is not None and first.ndim else 1
        infer = done.report.parts[0].seconds
        phases = PhaseTimes(1, samples, end - start, max(0.0, ran - ready - infer), ready - start, infer, end - ran)
        self._statistics.answered(network, phases, samples)
        return message

    def _inputs(self, request: infer_pb2.ModelInferRequest, contents: Sequence[memoryview | bytes]) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        raw = iter(contents)
        for i, tensor in enumerate(request.inputs):
            path = f"inputs[{i}]"
            if tensor.name in arrays:
                raise InvalidArgumentError(f"{path}.name", "each input once", tensor.name)
            data = None
            if reference_of(tensor.parameters, path) is None and not tensor.HasField("contents"):
                data = next(raw, None)
                if data is None:
                    wanted = "an entry for each input that is neither typed nor in shared memory"
                    raise InvalidArgumentError("raw_input_contents", wanted, len(contents))
            dtype = datatype_of(tensor.datatype, path)
            x = array_of(tensor, path, dtype, tuple(tensor.shape), data, self._memory)
            arrays[tensor.name] = x if x.flags.aligned else x.copy()
        if next(raw, None) is not None:
            wanted = "an entry for each input that is neither typed nor in shared memory"
            raise InvalidArgumentError("raw_input_contents", wanted, len(contents))
        return arrays

    def _answer(
        self,
        arrays: Mapping[str, Array],
        references: Mapping[str, RegionReference | None],
        inputs: Sequence[Array],
        response: infer_pb2.ModelInferResponse,
    ) -> bytes:
        for i, (name, array) in enumerate(arrays.items()):
            at = references.get(name)
            tensor = response.outputs.add(name=name, datatype=NAMES[array.dtype], shape=array.shape)
            if at is None:
                if len(arrays) == 1:
                    message, y = with_output(response, array.dtype, array.shape)
                    y[...] = array
                    return message
                response.raw_output_contents.append(array.tobytes())
                continue
            output = self._memory.output(at, array.dtype, array.shape, list(inputs))
            if output is None:
                wanted = f"at least {array.nbytes} bytes for output {name!r}"
                raise InvalidArgumentError(f"outputs[{i}].parameters.shared_memory_byte_size", wanted, at.size)
            output.array[...] = array
            output.store()
            mark_in_region(tensor, at, array.nbytes)
            response.raw_output_contents.append(b"")  # Triton's C++ client reads one for each output
        return response.SerializeToString()


def _references(request: infer_pb2.ModelInferRequest) -> dict[str, RegionReference | None]:
    """Names of the outputs wanted, and where each should be in the client's memory; empty if all are wanted."""
    found: dict[str, RegionReference | None] = {}
    for i, output in enumerate(request.outputs):
        if "classification" in output.parameters:
            raise InvalidArgumentError(f"outputs[{i}].parameters.classification", "none: outputs are tensors", "one")
        if output.name in found:
            raise InvalidArgumentError(f"outputs[{i}].name", "each output once", output.name)
        found[output.name] = reference_of(output.parameters, f"outputs[{i}]")
    return found


def _dims(info: TensorInfo) -> list[int]:
    return [extent if isinstance(extent, int) else -1 for extent in info.shape]
