"""A resident layer as a model of the protocol: its metadata and its configuration."""

from collections.abc import Sequence

import numpy as np

from groupconv.errors import NotFoundError
from groupconv_server.coordinator.steps import input_types
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.inference.tensors import INPUT, NAMES, OUTPUT, config_type
from groupconv_server.inference.v2 import model_pb2
from groupconv_server.layers.registry import Layer, Layers

PLATFORM = "groupconv"
MAX_BATCH = 2**31 - 1
"""What is said of a layer: no batch is too large by its number, only by its bytes."""


def model(layers: Layers, name: str, version: str) -> Layer:
    """The layer a request means; an empty version is the present one.

    Raises:
        NotFoundError: no such layer, or another version of it.
    """
    layer = layers.get(name)
    check_version(layer, version)
    return layer


def check_version(layer: Layer, version: str) -> None:
    """Refuse another version than the present one.

    Raises:
        NotFoundError: saying which there is.
    """
    if version not in ("", str(layer.version)):
        raise NotFoundError(f"model_version: layer {layer.name!r} has version {layer.version}, not {version[:40]!r}")


def metadata(layer: Layer) -> model_pb2.ModelMetadataResponse:
    """Shapes with -1 for any extent: the batch and space."""
    (given, channels), (answered, filters) = _ends(layer)
    space = [-1] * (layer.steps[0].kernel.ndim - 2)
    tensor = model_pb2.ModelMetadataResponse.TensorMetadata
    return model_pb2.ModelMetadataResponse(
        name=layer.name,
        versions=[str(layer.version)],
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype=NAMES[given], shape=[-1, channels, *space])],
        outputs=[tensor(name=OUTPUT, datatype=NAMES[answered], shape=[-1, filters, *space])],
    )


def config(layer: Layer, workers: Sequence[WorkerInfo]) -> model_pb2.ModelConfig:
    """The same without the batch, and who runs it."""
    (given, channels), (answered, filters) = _ends(layer)
    space = [-1] * (layer.steps[0].kernel.ndim - 2)
    group = model_pb2.ModelInstanceGroup
    gpus = any(w.engine == "cuda" for w in workers)
    return model_pb2.ModelConfig(
        name=layer.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=MAX_BATCH,
        input=[model_pb2.ModelInput(name=INPUT, data_type=config_type(given), dims=[channels, *space])],
        output=[model_pb2.ModelOutput(name=OUTPUT, data_type=config_type(answered), dims=[filters, *space])],
        instance_group=[
            group(name="workers", count=len(workers), kind=group.KIND_GPU if gpus else group.KIND_CPU),
        ],
        model_transaction_policy=model_pb2.ModelTransactionPolicy(decoupled=False),
    )


def _ends(layer: Layer) -> tuple[tuple[np.dtype, int], tuple[np.dtype, int]]:
    """Dtype and channels of what goes in and of what comes out; other dtypes of input may be accepted too."""
    first, last = layer.steps[0], layer.steps[-1]
    given, answered = next(iter(input_types(layer.steps).items()))
    channels = first.kernel.shape[0] if first.spec.transposed else first.kernel.shape[1] * first.spec.groups
    filters = last.kernel.shape[1] * last.spec.groups if last.spec.transposed else last.kernel.shape[0]
    return (given, channels), (answered, filters)
