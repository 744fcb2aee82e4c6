"""Calls whose tensors are in shared memory, without the transport.

Arrays on a GPU stay there, and the server opens their memory. What does not fit in shared memory travels in messages.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from groupconv.convolution.steps import Array, Step
from groupconv.errors import (
    FailedPreconditionError,
    GroupconvError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from groupconv.gpu.arrays import DeviceArray, Tensor, device_array, on_host
from groupconv.memory.arena import Arena, Block
from groupconv.memory.exports import Exports
from groupconv.memory.regions import (
    NOTHING_WRITTEN,
    OutputMemory,
    RequestMemory,
    answer_in,
    input_field,
    output_of,
    unregister,
    unregister_request,
)
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import convolution_pb2, memory_pb2, spec_pb2
from groupconv.wire.requests import CONVOLVE, Answer, with_input
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import tensor_in_region, to_wire

Mode = bool | Literal["auto"]
INLINE = 16 * 2**10
"""Bytes below which a tensor travels in the message, which is then cheaper than a reference to memory."""
PAUSE = 1.0
"""Seconds without another attempt after the server had no capacity for more memory."""
ATTEMPTS = 3
"""Attempts of a request whose regions the server no longer has. The last attempt uses no regions."""
_REGISTER = "/groupconv.v1.MemoryService/RegisterMemory"


def shared_memory_of(mode: Mode, *, balance: bool = False) -> "Shared | None":
    """The shared memory for `connect(shared_memory=mode)`; None if the client uses none.

    Raises:
        InvalidArgumentError: an unknown mode, or calls go to several servers.
    """
    if mode and balance:
        raise InvalidArgumentError("shared_memory", "False with balance, as memory is shared with one server", mode)
    if mode not in (False, True, "auto"):
        raise InvalidArgumentError("shared_memory", "True, False or 'auto'", mode)
    return Shared(required=mode is True) if mode else None


class Shared:
    """The shared memory of one client. Safe to use from several threads.

    Args:
        required: whether a server that cannot share memory is an error; otherwise tensors travel in messages.
    """

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self._arena = Arena()
        self._exports = Exports()
        self._off = False
        self._not_before = 0.0

    def source(self, x: Any) -> Any:
        """An input on a device as a `DeviceArray` if the server may use its memory; else on the host."""
        on_device = device_array(x)
        return on_device if on_device is not None and self._exports.can_register(on_device) else on_host(x)

    def run_steps(
        self, x: Tensor, steps: Sequence[Step], fields: bytes, *, out: DeviceArray | None
    ) -> Exchange[Answer]:
        """Run steps.

        Args:
            x: (N, C, *spatial), from `prepare`.
            steps: from `prepare`.
            fields: from `request_fields`.
            out: array on a device for the output, or None.

        Raises:
            FailedPreconditionError: shared memory is required and the server does not share it with this client.
            GroupconvError: the server's answer.
        """
        return self._convolve(x, fields, output_of(x.shape, x.dtype, steps), steps, out=_batched(out, x))

    def run_layer(
        self, x: Tensor, fields: bytes, output: tuple[np.dtype, int], *, out: DeviceArray | None
    ) -> Exchange[Answer] | None:
        """Run a layer; None if all tensors are small enough to travel in messages.

        Args:
            x: (N, C, *spatial), in the layer's dtype.
            fields: from `request_fields`, with the layer's name.
            output: the output's dtype and bytes. If it is larger than that, it travels in the message.
            out: array on a device for the output, or None.

        Raises:
            FailedPreconditionError, GroupconvError: as `run_steps`.
        """
        if x.nbytes < INLINE and output[1] < INLINE and out is None and not isinstance(x, DeviceArray):
            return None
        return self._convolve(x, fields, output, out=_batched(out, x))

    def fits(self, x: Tensor, steps: Sequence[Step]) -> Exchange[bool]:
        """Whether the arena has free blocks for the input and the output of `run_steps`."""
        in_place = isinstance(x, DeviceArray) or self._arena.locate(x) is not None
        blocks = []
        for nbytes in (*(() if in_place else (x.nbytes,)), output_of(x.shape, x.dtype, steps)[1]):
            blocks.append((yield from self._allocate(nbytes, wait=True)))  # noqa: PERF401 - no comprehension may yield
        return None not in blocks

    def empty(self, like: Array) -> Exchange[Array]:
        """A new array in shared memory, of the shape and dtype of `like`; `like` itself if there is no free block."""
        block = yield from self._allocate(max(like.nbytes, 1), wait=True)
        return like if block is None else block.array(like.dtype, like.shape)

    def close(self) -> list[Request]:
        """Stop sharing. Returns the requests that tell the server to release its regions."""
        self._arena.close()
        return [unregister_request(region) for region in (*self._arena.retired, *self._exports.close())]

    def _convolve(
        self,
        x: Tensor,
        rest: bytes,
        output: tuple[np.dtype, int],
        steps: Sequence[Step] = (),
        *,
        out: DeviceArray | None = None,
    ) -> Exchange[Answer]:
        """Send a request; again with new regions if the server no longer has the old ones.

        The answer's output is in the message, in a block of shared memory that it keeps alive, or in `out`. `rest` are
        the request's fields that are not tensors; `output` has the output's dtype and bytes.
        """
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            used = RequestMemory()
            source = target = None
            if not last:
                source = yield from self._reference(x, used)
                target = yield from self._output_memory(output, out, used)
            if source is None and isinstance(x, DeviceArray):
                x = x.host()
                source = None if last else (yield from self._reference(x, used))
            message = rest
            if steps:
                request = convolution_pb2.ConvolveRequest()
                for i, step in enumerate(steps):
                    request.steps.append((yield from self._step(i, step, used, in_message=last)))
                message += request.SerializeToString()
            if target is not None:
                message += target.field()
            if source is not None:
                message = input_field(x, *source) + message
            else:
                assert not isinstance(x, DeviceArray)
                message = with_input(x, message)
            try:
                raw = yield Request(CONVOLVE, message)
            except NotFoundError as error:
                if not (used.segments or used.exports) or "shared_memory_region" not in str(error):
                    raise
                # the server has restarted or released the regions: register new ones
                self._arena.retire(*used.segments)
                self._exports.forget(used.exports)
                continue
            except BaseException as error:
                rejected = isinstance(error, GroupconvError) and error.retry_after is not None
                if target is not None and not rejected and not isinstance(error, NOTHING_WRITTEN):
                    self._abandon(target)
                raise
            return answer_in(raw, target)
        raise AssertionError(ATTEMPTS)

    def _step(self, i: int, step: Step, used: RequestMemory, *, in_message: bool) -> Exchange[spec_pb2.Step]:
        message = spec_pb2.Step(spec=spec_to_wire(step.spec))
        for name, array in (("kernel", step.kernel), ("bias", step.bias)):
            if array is not None:
                reference = None if in_message else (yield from self._reference(array, used))
                field = f"steps[{i}].{name}"
                tensor = (
                    to_wire(array, field)
                    if reference is None
                    else tensor_in_region(array.dtype, array.shape, *reference)
                )
                getattr(message, name).CopyFrom(tensor)
        return message

    def _reference(self, x: Tensor, used: RequestMemory) -> Exchange[tuple[str, int] | None]:
        """Region and offset of an array, copied to shared memory if need be; None if it must travel in the message."""
        if isinstance(x, DeviceArray):
            reference = yield from self._exports.reference(x)
            used.exports += reference[:1] if reference else ()
            return reference
        if x.nbytes < INLINE or self._off:
            return None
        located = self._arena.locate(x)
        if located is None:
            block = yield from self._allocate(x.nbytes)
            if block is None:
                return None
            block.array(x.dtype, x.shape)[...] = x
            used.blocks.append(block)
            located = block.segment, block.offset
        segment, offset = located
        used.segments.append(segment)
        return str(segment.region), offset

    def _output_memory(
        self, output: tuple[np.dtype, int], out: DeviceArray | None, used: RequestMemory
    ) -> Exchange[OutputMemory | None]:
        """Memory for an output; None if the output must travel in the message."""
        if out is not None and (out.dtype, out.nbytes) == output:
            reference = yield from self._reference(out, used)
            if reference is not None:
                return OutputMemory(out, *reference, out.nbytes)
        block = (yield from self._allocate(output[1])) if output[1] >= INLINE else None
        if block is None:
            return None
        used.segments.append(block.segment)
        return OutputMemory(block, str(block.segment.region), block.offset, block.size)

    def _abandon(self, target: OutputMemory) -> None:
        """Do not reuse memory that the server may still write to."""
        if isinstance(target.memory, Block):
            self._arena.retire(target.memory.segment)
        else:
            self._exports.hold(target.memory.owner)

    def _allocate(self, nbytes: int, *, wait: bool = False) -> Exchange[Block | None]:
        """A block of `nbytes`, in a new segment if need be; None if there is none.

        Unless `wait`, it is also None while another thread is registering a segment.
        """
        while not self._off:
            while self._arena.retired:
                yield from self._unregister()
            block = self._arena.allocate(nbytes)
            if block is not None:
                return block
            if time.monotonic() < self._not_before or not (yield from self._grow(nbytes, wait=wait)):
                return None
        return None

    def _grow(self, nbytes: int, *, wait: bool) -> Exchange[bool]:
        """Register a new segment; whether there is one now."""
        try:
            segment = self._arena.begin_segment(nbytes, concurrent=wait)
        except OSError as error:
            self._refuse(FailedPreconditionError(f"this machine has no shared memory: {error}"))
            return False
        if segment is None:
            return False
        region = None
        try:
            request = memory_pb2.RegisterMemoryRequest(name=segment.name, byte_size=segment.size, proof=segment.proof)
            raw = yield Request(_REGISTER, request.SerializeToString())
            segment.populate()
            region = memory_pb2.RegisterMemoryResponse.FromString(raw).region
        except (ResourceExhaustedError, UnavailableError):  # the request goes on without shared memory
            self._not_before = time.monotonic() + PAUSE
        except (FailedPreconditionError, UnimplementedError, PermissionDeniedError) as error:
            self._refuse(error)
        finally:
            segment.unlink()
            self._arena.end_segment(segment, region)
        return region is not None

    def _refuse(self, error: GroupconvError) -> None:
        """Go on without shared memory, or raise if it is required."""
        if self._required:
            raise FailedPreconditionError(f"shared_memory=True: {error}") from None
        self._off = True

    def _unregister(self) -> Exchange[None]:
        try:
            region = self._arena.retired.popleft()
        except IndexError:  # another thread took it
            return
        yield from unregister(region)


def _batched(out: DeviceArray | None, x: Tensor) -> DeviceArray | None:
    """An output with a batch axis, as the input has."""
    return out.reshape((1, *out.shape)) if out is not None and out.ndim < x.ndim else out
