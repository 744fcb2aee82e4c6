"""Valid messages of every RPC: where the mutations begin."""

import numpy as np
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from groupconv import ConvSpec, Step
from groupconv.arguments import prepare
from groupconv.v1 import cluster_pb2, convolution_pb2, layer_pb2, memory_pb2, stream_pb2, tensor_pb2
from groupconv.wire.chunks import packed
from groupconv.wire.compress import compressed
from groupconv.wire.layers import load_messages
from groupconv.wire.plans import plan_request
from groupconv.wire.requests import steps_to_wire
from groupconv.wire.tensors import tensor_in_region, to_wire, type_to_wire
from groupconv_server.inference.v2 import (
    infer_pb2,
    model_pb2,
    repository_pb2,
    service_pb2,
    shared_memory_pb2,
    statistics_pb2,
)

CONVOLUTION, STREAM, LAYER, MEMORY, CLUSTER = (
    f"/groupconv.v1.{name}Service/" for name in ("Convolution", "Stream", "Layer", "Memory", "Cluster")
)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"
HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
INFERENCE = "/inference.GRPCInferenceService/"
LZ4 = stream_pb2.COMPRESSION_SHUFFLE_LZ4
NAME = "edge"
"""A layer that the live server has."""

X = np.linspace(-1, 1, 144, dtype=np.float32).reshape(1, 4, 6, 6)
W, B = np.ones((2, 2, 3, 3), np.float32), np.ones(2, np.float32)
SPECS = [
    ConvSpec(groups=2, padding=1, activation="relu"),
    ConvSpec(groups=2, stride=2, dilation=2, padding="same", padding_mode="reflect"),
    ConvSpec(groups=2, padding=((0, 1), (2, 0)), padding_mode="circular"),
]
TRANSPOSED = Step(np.ones((4, 1, 2, 2), np.float32), None, ConvSpec(transposed=True, stride=2, output_padding=1))


def _steps() -> list[list[Step]]:
    return [
        *([Step(W, B, spec)] for spec in SPECS),
        [Step(W, None, SPECS[0]), Step(np.ones((3, 2, 1, 1)))],
        [TRANSPOSED],
    ]


def convolve() -> list[convolution_pb2.ConvolveRequest]:
    """Several variants, a chain, other dtypes and ranks, a layer; places of no region."""
    made = [(X, steps) for steps in _steps()]
    made += [(X.astype(t), [Step(W.astype(t), None, SPECS[0])]) for t in ("float16", "float64", "int8", "uint8")]
    made.append((np.ones((1, 2, 5)), [Step(np.ones((2, 2, 3)))]))
    made.append((np.ones((1, 1, 3, 3, 3)), [Step(np.ones((1, 1, 2, 2, 2)))]))
    found = []
    for x, steps in made:
        array, ready, _ = prepare(x, steps)
        found.append(convolution_pb2.ConvolveRequest(input=to_wire(array), steps=steps_to_wire(ready)))
    found.append(convolution_pb2.ConvolveRequest(input=to_wire(X), layer=NAME, without_report=True))
    for region in ("0" * 32, "device-" + "0" * 32):
        x = tensor_in_region(X.dtype, X.shape, region, 64)
        y = tensor_pb2.Place(region=region, offset=1024, byte_size=4096)
        found.append(convolution_pb2.ConvolveRequest(input=x, layer=NAME, output_place=y))
    return found


def plans() -> list[convolution_pb2.PlanConvolutionRequest]:
    """One step, and two."""
    shapes = [([W.shape], [SPECS[0]]), ([W.shape, (3, 2, 1, 1)], [SPECS[0], ConvSpec()])]
    return [plan_request(X.shape, kernels, specs, "float32") for kernels, specs in shapes]


def streams() -> list[list[bytes]]:
    """A header and its chunks, for each variant."""
    found = []
    for steps in _steps():
        array, ready, _ = prepare(X, steps)
        header = stream_pb2.StreamHeader(
            input=type_to_wire(array.dtype, array.shape), steps=steps_to_wire(ready), band_rows=2
        )
        rows = np.ascontiguousarray(np.moveaxis(array, 1, 2)).reshape(-1).view(np.uint8).data
        chunks = [packed(rows[at : at + 100]) for at in range(0, len(rows), 100)]
        found.append([stream_pb2.ConvolveStreamRequest(header=header).SerializeToString(), *chunks])
    array, ready, _ = prepare(np.zeros((1, 4, 32, 8), np.float32), _steps()[0])
    header = stream_pb2.StreamHeader(
        input=type_to_wire(array.dtype, array.shape), steps=steps_to_wire(ready), compression=LZ4
    )
    found.append([m.SerializeToString() for m in (stream_pb2.ConvolveStreamRequest(header=header), small_chunk())])
    return found


def small_chunk() -> stream_pb2.ConvolveStreamRequest:
    """All of a stream's zeros, compressed."""
    return stream_pb2.ConvolveStreamRequest(compressed=compressed(memoryview(bytes(4 * 32 * 8 * 4)), 4))


def loads() -> list[list[layer_pb2.LoadLayerRequest]]:
    """A header and its chunks."""
    return [list(load_messages(f"fuzz/{i}", steps, None)) for i, steps in enumerate(_steps())]


def infer() -> list[infer_pb2.ModelInferRequest]:
    """Raw and typed contents."""
    raw = infer_pb2.ModelInferRequest(model_name=NAME, id="1")
    raw.inputs.add(name="x", datatype="FP32", shape=X.shape)
    raw.raw_input_contents.append(X.tobytes())
    raw.outputs.add(name="y")
    raw.parameters["priority"].int64_param = 1
    typed = infer_pb2.ModelInferRequest(model_name=NAME)
    typed.inputs.add(name="x", datatype="FP32", shape=X.shape).contents.fp32_contents.extend(X.ravel().tolist())
    shared = infer_pb2.ModelInferRequest(model_name=NAME)
    region = shared.inputs.add(name="x", datatype="FP32", shape=X.shape).parameters
    region["shared_memory_region"].string_param = "r"
    region["shared_memory_byte_size"].int64_param = X.nbytes
    region["shared_memory_offset"].int64_param = 0
    return [raw, typed, shared]


def reflections() -> list[list[Message]]:
    """Every question that reflection answers."""
    R = reflection_pb2.ServerReflectionRequest
    extension = reflection_pb2.ExtensionRequest(containing_type="google.protobuf.FieldOptions", extension_number=50_000)
    return [
        [
            R(list_services=""),
            R(file_containing_symbol="groupconv.v1.ConvolutionService"),
            R(file_by_filename="groupconv/v1/spec.proto"),
            R(file_containing_extension=extension),
            R(all_extension_numbers_of_type="groupconv.v1.ConvSpec"),
        ]
    ]


def unary() -> dict[str, list[Message]]:
    """Requests of every RPC that takes one, by path."""
    m, r, s = model_pb2, repository_pb2, shared_memory_pb2
    region = s.SystemSharedMemoryRegisterRequest(name="r", key="/fuzz-none", offset=0, byte_size=64)
    return {
        CONVOLUTION + "Convolve": [*convolve()],
        CONVOLUTION + "PlanConvolution": [*plans()],
        LAYER + "GetLayer": [layer_pb2.GetLayerRequest(name=NAME)],
        LAYER + "UnloadLayer": [layer_pb2.UnloadLayerRequest(name="fuzz/0")],
        LAYER + "ListLayers": [layer_pb2.ListLayersRequest()],
        MEMORY + "RegisterMemory": [
            memory_pb2.RegisterMemoryRequest(name="groupconv-client-" + "0" * 32, byte_size=4096, proof=bytes(32))
        ],
        MEMORY + "RegisterDeviceMemory": [
            memory_pb2.RegisterDeviceMemoryRequest(handle=bytes(64), device_uuid=bytes(16), byte_size=4096)
        ],
        MEMORY + "UnregisterMemory": [
            memory_pb2.UnregisterMemoryRequest(region=prefix + "0" * 32) for prefix in ("", "device-")
        ],
        CLUSTER + "GetCluster": [cluster_pb2.GetClusterRequest()],
        INFERENCE + "ModelInfer": [*infer()],
        INFERENCE + "ServerMetadata": [service_pb2.ServerMetadataRequest()],
        INFERENCE + "ModelReady": [m.ModelReadyRequest(name=NAME, version="1")],
        INFERENCE + "ModelMetadata": [m.ModelMetadataRequest(name=NAME)],
        INFERENCE + "ModelConfig": [m.ModelConfigRequest(name=NAME)],
        INFERENCE + "ModelStatistics": [statistics_pb2.ModelStatisticsRequest(name=NAME)],
        INFERENCE + "RepositoryIndex": [r.RepositoryIndexRequest()],
        INFERENCE + "RepositoryModelLoad": [r.RepositoryModelLoadRequest(model_name="fuzz/1")],
        INFERENCE + "RepositoryModelUnload": [r.RepositoryModelUnloadRequest(model_name="fuzz/1")],
        INFERENCE + "SystemSharedMemoryRegister": [region],
        INFERENCE + "SystemSharedMemoryStatus": [s.SystemSharedMemoryStatusRequest(name="r")],
        INFERENCE + "SystemSharedMemoryUnregister": [s.SystemSharedMemoryUnregisterRequest(name="r")],
    }
