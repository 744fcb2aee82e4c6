"""A client of places in shared memory that says what it likes."""

import numpy as np

from groupconv.v1 import convolution_pb2, memory_pb2, tensor_pb2
from groupconv.wire.requests import CONVOLVE
from groupconv.wire.tensors import to_wire

SERVICE = "/groupconv.v1.MemoryService"


class Raw:
    """Calls on the channel of a real client."""

    def __init__(self, client):
        self._client = client

    def register(self, name, size, proof):
        request = memory_pb2.RegisterMemoryRequest(name=name, byte_size=size, proof=proof)
        raw = self._call(f"{SERVICE}/RegisterMemory", request)
        return memory_pb2.RegisterMemoryResponse.FromString(raw).region

    def register_device(self, handle, uuid, size):
        request = memory_pb2.RegisterDeviceMemoryRequest(handle=handle, device_uuid=uuid, byte_size=size)
        raw = self._call(f"{SERVICE}/RegisterDeviceMemory", request)
        return memory_pb2.RegisterDeviceMemoryResponse.FromString(raw).region

    def unregister(self, region):
        self._call(f"{SERVICE}/UnregisterMemory", memory_pb2.UnregisterMemoryRequest(region=region))

    def convolve(self, source, output=None, kernel=None):
        """`kernel` is a NumPy array or a tensor of the protocol; without one the answer is the input."""
        request = convolution_pb2.ConvolveRequest(input=source, output_place=output, without_report=True)
        kernel = np.ones((1, 1, 1), np.float32) if kernel is None else kernel
        request.steps.add(kernel=to_wire(kernel) if isinstance(kernel, np.ndarray) else kernel)
        return convolution_pb2.ConvolveResponse.FromString(self._call(CONVOLVE, request))

    def _call(self, method, request):
        return self._client._call(self._client._unary(method), request.SerializeToString(), None)


def at(region, offset, size):
    return tensor_pb2.Place(region=region, offset=offset, byte_size=size)


def x_at(region, offset, size, shape=(1, 1, 4)):
    """A float32 tensor that lies there."""
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape, place=at(region, offset, size))
