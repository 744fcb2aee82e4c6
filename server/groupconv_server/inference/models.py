"""Metadata and configuration of resident layers, as models of the protocol."""

from collections.abc import Sequence

import numpy as np

from groupconv.errors import InvalidArgumentError, NotFoundError
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.inference import networks
from groupconv_server.inference.tensors import INPUT, NAMES, OUTPUT, Kind, config_type
from groupconv_server.inference.v2 import model_pb2
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import LayerVersion, NetworkVersion, Version

PLATFORM = networks.PLATFORM
DIGITS = 18
"""Digits of a version, at most: it fits the 64 bits that the protocol's servers give it."""
MAX_BATCH = 2**31 - 1
"""The largest batch that a model's configuration names: only the bytes of a batch are limited."""


def model(layers: Layers, name: str, version: str) -> Version:
    """The layer called `name`; an empty version means the current one.

    Raises:
        InvalidArgumentError: the version is no number that one can have.
        NotFoundError: there is no such layer, or it has another version.
    """
    layer = layers.get(name, Version)
    check_version(layer, version)
    return layer


def check_version(layer: Version, version: str) -> None:
    """Check that a request means the current version.

    Raises:
        InvalidArgumentError: it is no number that a version can have.
        NotFoundError: it means another one.
    """
    if version not in ("", str(layer.version)):
        if not (version.isascii() and version.isdecimal() and len(version) <= DIGITS):
            raise InvalidArgumentError("model_version", f"a number of at most {DIGITS} digits", version[:40])
        raise NotFoundError(f"model_version: layer {layer.name!r} has version {layer.version}, not {version[:40]!r}")


def metadata(layer: Version) -> model_pb2.ModelMetadataResponse:
    """A layer's input and output; -1 stands for any extent, of the batch and of space."""
    if isinstance(layer, NetworkVersion):
        return networks.metadata(layer)
    assert isinstance(layer, LayerVersion)
    given, answered = input_kind(layer), output_kind(layer)
    tensor = model_pb2.ModelMetadataResponse.TensorMetadata
    return model_pb2.ModelMetadataResponse(
        name=layer.name,
        versions=[str(layer.version)],
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype=NAMES[given.dtype], shape=given.shape)],
        outputs=[tensor(name=OUTPUT, datatype=NAMES[answered.dtype], shape=answered.shape)],
    )


def config(layer: Version, workers: Sequence[WorkerInfo]) -> model_pb2.ModelConfig:
    """A layer's input and output without their batch axes, and the workers that run it."""
    if isinstance(layer, NetworkVersion):
        return networks.config(layer, workers)
    assert isinstance(layer, LayerVersion)
    given, answered = input_kind(layer), output_kind(layer)
    group = model_pb2.ModelInstanceGroup
    gpus = any(w.engine == "cuda" for w in workers)
    return model_pb2.ModelConfig(
        name=layer.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=MAX_BATCH,
        input=[model_pb2.ModelInput(name=INPUT, data_type=config_type(given.dtype), dims=given.shape[1:])],
        output=[model_pb2.ModelOutput(name=OUTPUT, data_type=config_type(answered.dtype), dims=answered.shape[1:])],
        instance_group=[
            group(name="workers", count=len(workers), kind=group.KIND_GPU if gpus else group.KIND_CPU),
        ],
        model_transaction_policy=model_pb2.ModelTransactionPolicy(decoupled=False),
    )


def input_kind(layer: LayerVersion) -> Kind:
    """The dtype and shape of a layer's input. ConvolutionService also takes the other dtypes that its steps accept."""
    first = layer.steps[0]
    channels = first.kernel.shape[0] if first.spec.transposed else first.kernel.shape[1] * first.spec.groups
    return _kind(layer, layer.dtypes[0], channels)


def output_kind(layer: LayerVersion) -> Kind:
    """The dtype and shape of a layer's output."""
    last = layer.steps[-1]
    filters = last.kernel.shape[1] * last.spec.groups if last.spec.transposed else last.kernel.shape[0]
    return _kind(layer, layer.dtypes[1], filters)


def _kind(layer: LayerVersion, dtype: np.dtype, channels: int) -> Kind:
    return Kind(dtype, (-1, channels, *[-1] * (layer.steps[0].kernel.ndim - 2)))
