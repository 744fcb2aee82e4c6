"""A call whose tensors lie in shared memory, without its transport: what is asked of the server, and what comes of it.

Arrays on a GPU stay there, and the server opens their memory. What does not fit shared memory travels in the messages.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from groupconv.device import DeviceArray, device_array, unnoted
from groupconv.errors import (
    FailedPreconditionError,
    GroupconvError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from groupconv.memory.arena import Arena, Slot
from groupconv.memory.exports import Exports
from groupconv.memory.regions import Target, Used, answer_of, input_at, let_go, letting_go, output_of, output_type
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import convolution_pb2, memory_pb2, spec_pb2
from groupconv.wire.layers import LayerInfo
from groupconv.wire.requests import CONVOLVE, Answer, Array, Step, layer_fields, with_input
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import placed, to_wire

Input = Array | DeviceArray
Mode = bool | Literal["auto"]
INLINE = 16 * 2**10
"""Bytes of a tensor below which it travels in the message: that costs less than to say where it lies."""
PAUSE = 1.0
"""Seconds for which a server that has no room for more memory is not asked again."""
ATTEMPTS = 3
"""Times that a call is made whose memory the server does not know any more; the last one goes without."""
_REGISTER = "/groupconv.v1.MemoryService/RegisterMemory"
_SETTLED = (
    InvalidArgumentError,
    NotFoundError,
    FailedPreconditionError,
    UnauthenticatedError,
    PermissionDeniedError,
    UnimplementedError,
)
"""Errors of a call that has written nothing and never will."""


def shared_memory_of(mode: Mode) -> "Shared | None":
    """What `connect(shared_memory=…)` asks for; None is nothing.

    Raises:
        InvalidArgumentError: something else.
    """
    if mode not in (False, True, "auto"):
        raise InvalidArgumentError("shared_memory", "True, False or 'auto'", mode)
    return Shared(required=mode is True) if mode else None


class Shared:
    """The shared memory of one client.

    Args:
        required: whether a server that cannot share memory is an error; else the client goes without.
    """

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self._arena = Arena()
        self._exports = Exports()
        self._off = False
        self._not_before = 0.0

    def source(self, x: Any) -> Any:
        """An input as its place on a device, if the server may be given that; else as it is."""
        found = device_array(x)
        return found if found is not None and self._exports.can(found) else unnoted(x)

    def run_steps(
        self, x: Input, steps: Sequence[Step], *, out: DeviceArray | None, allow_reordering: bool, report: bool
    ) -> Exchange[Answer]:
        """Run steps that `prepare` made ready; `out`, result and errors are as of `convolve`."""
        rest = convolution_pb2.ConvolveRequest(allow_reordering=allow_reordering, without_report=not report)
        return self.convolve(x, rest.SerializeToString(), output_of(x.shape, x.dtype, steps), steps, out=out)

    def run_layer(
        self, x: Input, info: LayerInfo, *, out: DeviceArray | None, allow_reordering: bool, report: bool
    ) -> Exchange[Answer] | None:
        """Run a layer on what `layer_input` made ready; `out`, result and errors are as of `convolve`.

        None if all of it travels in messages.
        """
        dtypes = (info.dtype,) * len(info.specs)  # a guess for all but the first
        output = output_type(x.shape, x.dtype, info.specs, info.kernel_shapes, dtypes)
        if x.nbytes < INLINE and output[1] < INLINE and out is None and not isinstance(x, DeviceArray):
            return None
        return self.convolve(x, layer_fields(info.name, report, allow_reordering), output, out=out)

    def convolve(
        self,
        x: Input,
        rest: bytes,
        output: tuple[np.dtype, int],
        steps: Sequence[Step] = (),
        *,
        out: DeviceArray | None = None,
    ) -> Exchange[Answer]:
        """Run a request.

        Args:
            x: the input, on the host or as `source` gave it.
            rest: the fields of the request that are no tensors.
            output: its dtype and bytes, as far as they are known here: more bytes come in the message.
            steps: with arrays, of a request that names no layer.
            out: where the output is wanted, on a device.

        Returns:
            The answer; its output's bytes are in shared memory, and stay there for as long as an array is over them.
            Or they are in `out`, and its output says so by being a `DeviceArray`, too.

        Raises:
            FailedPreconditionError: the server does not share memory with this client, where that is required.
            GroupconvError: of the call.
        """
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            used = Used()
            source = target = None
            if not last:
                source = yield from self._place(x, used)
                target = yield from self._target(output, out, used)
            if source is None and isinstance(x, DeviceArray):
                x = x.host()
                source = None if last else (yield from self._place(x, used))
            message = rest
            if steps:
                request = convolution_pb2.ConvolveRequest()
                for i, step in enumerate(steps):
                    request.steps.append((yield from self._step(i, step, used, without=last)))
                message += request.SerializeToString()
            if target is not None:
                message += target.field()
            message = input_at(x.dtype, x.shape, *source) + message if source else with_input(cast("Array", x), message)
            try:
                raw = yield Request(CONVOLVE, message)
            except NotFoundError as error:
                if not (used.segments or used.exports) or "shared_memory_region" not in str(error):
                    raise
                # the server was started anew, or let them go: with new ones it goes on
                self._arena.retire(*used.segments)
                self._exports.forget(used.exports)
                continue
            except BaseException as error:
                busy = isinstance(error, GroupconvError) and error.retry_after is not None
                if target is not None and not busy and not isinstance(error, _SETTLED):
                    self._lose(target)
                raise
            return answer_of(raw, target)
        raise AssertionError(ATTEMPTS)

    def fits(self, x: Input, steps: Sequence[Step]) -> Exchange[bool]:
        """Whether there is room for the input and the output of `run_steps`."""
        there = isinstance(x, DeviceArray) or self._arena.lies_in(x) is not None
        slots = []
        for nbytes in (*(() if there else (x.nbytes,)), output_of(x.shape, x.dtype, steps)[1]):
            slots.append((yield from self._room(nbytes, must=True)))  # noqa: PERF401 - no comprehension may yield
        return None not in slots

    def empty(self, made: Array) -> Exchange[Array]:
        """An array like `made` that `convolve` need not copy; `made` itself if there is no room."""
        slot = yield from self._room(max(made.nbytes, 1), must=True)
        return made if slot is None else slot.array(made.dtype, made.shape)

    def close(self) -> list[Request]:
        """What tells the server that its memory can go."""
        self._arena.close()
        return [letting_go(region) for region in (*self._arena.retired, *self._exports.close())]

    def _step(self, i: int, step: Step, used: Used, *, without: bool) -> Exchange[spec_pb2.Step]:
        message = spec_pb2.Step(spec=spec_to_wire(step.spec))
        for name, array in (("kernel", step.kernel), ("bias", step.bias)):
            if array is not None:
                at = None if without else (yield from self._place(array, used))
                field = f"steps[{i}].{name}"
                tensor = to_wire(array, field) if at is None else placed(array.dtype, array.shape, *at)
                getattr(message, name).CopyFrom(tensor)
        return message

    def _place(self, x: Input, used: Used) -> Exchange[tuple[str, int] | None]:
        """Where an array lies, region and offset, perhaps a copy made now; None if it is to travel in the message."""
        if isinstance(x, DeviceArray):
            found = yield from self._exports.place(x)
            used.exports += found[:1] if found else ()
            return found
        if x.nbytes < INLINE or self._off:
            return None
        at = self._arena.lies_in(x)
        if at is None:
            slot = yield from self._room(x.nbytes)
            if slot is None:
                return None
            slot.array(x.dtype, x.shape)[...] = x
            used.slots.append(slot)
            at = slot.segment, slot.offset
        segment, offset = at
        used.segments.append(segment)
        return str(segment.region), offset

    def _target(self, output: tuple[np.dtype, int], out: DeviceArray | None, used: Used) -> Exchange[Target | None]:
        """Where an output is to be put; None if it is to travel in the message."""
        if out is not None and (out.dtype, out.nbytes) == output:
            at = yield from self._place(out, used)
            if at is not None:
                return Target(out, *at, out.nbytes)
        slot = (yield from self._room(output[1])) if output[1] >= INLINE else None
        if slot is None:
            return None
        used.segments.append(slot.segment)
        return Target(slot, str(slot.segment.region), slot.offset, slot.size)

    def _lose(self, target: Target) -> None:
        """The server may write there still: it is not used again, or on a device not soon."""
        if isinstance(target.memory, Slot):
            self._arena.retire(target.memory.segment)
        else:
            self._exports.hold(target.memory.owner)

    def _room(self, nbytes: int, *, must: bool = False) -> Exchange[Slot | None]:
        """Room for so many bytes, in a new segment if need be; None if there is none, or if one is being made."""
        while not self._off:
            while self._arena.retired:
                yield from self._unregister()
            slot = self._arena.take(nbytes)
            if slot is not None:
                return slot
            if time.monotonic() < self._not_before or not (yield from self._grow(nbytes, must=must)):
                return None
        return None

    def _grow(self, nbytes: int, *, must: bool) -> Exchange[bool]:
        try:
            segment = self._arena.begin(nbytes, beside=must)
        except OSError as error:
            self._refused(FailedPreconditionError(f"no shared memory here: {error}"))
            return False
        if segment is None:
            return False
        region = None
        try:
            request = memory_pb2.RegisterMemoryRequest(name=segment.name, byte_size=segment.size, proof=segment.proof)
            raw = yield Request(_REGISTER, request.SerializeToString())
            segment.populate()
            region = memory_pb2.RegisterMemoryResponse.FromString(raw).region
        except (ResourceExhaustedError, UnavailableError):  # the call itself may be tried again, this is not
            self._not_before = time.monotonic() + PAUSE
        except (FailedPreconditionError, UnimplementedError, PermissionDeniedError) as error:
            self._refused(error)
        finally:
            segment.unlink()
            self._arena.end(segment, region)
        return region is not None

    def _refused(self, error: GroupconvError) -> None:
        if self._required:
            raise FailedPreconditionError(f"shared_memory=True: {error}") from None
        self._off = True

    def _unregister(self) -> Exchange[None]:
        try:
            region = self._arena.retired.popleft()
        except IndexError:  # another thread was faster
            return
        yield from let_go(region)
