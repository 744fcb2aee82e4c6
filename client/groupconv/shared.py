"""A call whose tensors lie in shared memory, without its transport: what is asked of the server, and what comes of it.

What does not fit shared memory travels in the messages.
"""

import functools
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from groupconv.arena import Arena, Segment, Slot
from groupconv.dtypes import types_of
from groupconv.errors import (
    DataLossError,
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
from groupconv.layer import LayerInfo, layer_fields
from groupconv.requests import CONVOLVE, Answer, Array, Step, geometries, read_answer, taken_apart, with_input
from groupconv.spec import ConvSpec
from groupconv.talk import Ask, Talk
from groupconv.tensors import from_wire, placed, to_wire
from groupconv.v1 import convolution_pb2, memory_pb2, spec_pb2, tensor_pb2
from groupconv.wire import spec_to_wire

Mode = bool | Literal["auto"]
INLINE = 16 * 2**10
"""Bytes of a tensor below which it travels in the message: that costs less than to say where it lies."""
PAUSE = 1.0
"""Seconds for which a server that has no room for more memory is not asked again."""
ATTEMPTS = 3
"""Times that a call is made whose memory the server does not know any more; the last one goes without."""
BRIEF = 256
"""Bytes of an answer that is remembered; one with a report is longer, and another each time."""
_REGISTER, _UNREGISTER = (f"/groupconv.v1.MemoryService/{name}Memory" for name in ("Register", "Unregister"))
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
        self._off = False
        self._not_before = 0.0

    def run_steps(self, x: Array, steps: Sequence[Step], *, allow_reordering: bool, report: bool) -> Talk[Answer]:
        """Run steps that `prepare` made ready; returns and raises as `convolve`."""
        rest = convolution_pb2.ConvolveRequest(allow_reordering=allow_reordering, without_report=not report)
        return self.convolve(x, rest.SerializeToString(), _output_of(x, steps), steps)

    def run_layer(self, x: Array, info: LayerInfo, *, allow_reordering: bool, report: bool) -> Talk[Answer] | None:
        """Run a layer on what `layer_input` made ready; returns and raises as `convolve`.

        None if all of it travels in messages.
        """
        dtypes = (info.dtype,) * len(info.specs)  # a guess for all but the first
        nbytes = output_nbytes(x.shape, x.dtype, info.specs, info.kernel_shapes, dtypes)
        if x.nbytes < INLINE and nbytes < INLINE:
            return None
        return self.convolve(x, layer_fields(info.name, report, allow_reordering), nbytes)

    def convolve(self, x: Array, rest: bytes, nbytes: int, steps: Sequence[Step] = ()) -> Talk[Answer]:
        """Run a request.

        Args:
            x: the input.
            rest: the fields of the request that are no tensors.
            nbytes: of the output, as far as is known here: one that is larger comes in the message.
            steps: with arrays, of a request that names no layer.

        Returns:
            The answer; its output's bytes are in shared memory, and stay there for as long as an array is over them.

        Raises:
            FailedPreconditionError: the server does not share memory with this client, where that is required.
            GroupconvError: of the call.
        """
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            used: list[Segment] = []
            slots: list[Slot] = []  # of copies, until the answer is there
            source = target = None
            if not last:
                source = yield from self._place(x, used, slots)
                target = (yield from self._room(nbytes)) if nbytes >= INLINE else None
            message = rest
            if steps:
                request = convolution_pb2.ConvolveRequest()
                for i, step in enumerate(steps):
                    request.steps.append((yield from self._step(i, step, used, slots, without=last)))
                message += request.SerializeToString()
            asked = None
            if target is not None:
                used.append(target.segment)
                asked = str(target.segment.region), target.offset, target.size
                message += _output_at(*asked)
            message = with_input(x, message) if source is None else _input_at(x.dtype, x.shape, *source) + message
            try:
                raw = yield Ask(CONVOLVE, message)
            except NotFoundError as error:
                if not used or "shared_memory_region" not in str(error):
                    raise
                self._arena.retire(*used)  # the server was started anew, or let them go: with new ones it goes on
                continue
            except BaseException as error:
                busy = isinstance(error, GroupconvError) and error.retry_after is not None
                if target is not None and not busy and not isinstance(error, _SETTLED):
                    self._arena.retire(target.segment)
                raise
            return _answer(raw, target, asked)
        raise AssertionError(ATTEMPTS)

    def fits(self, x: Array, steps: Sequence[Step]) -> Talk[bool]:
        """Whether there is room for the input and the output of `run_steps`."""
        rooms = [x.nbytes] if self._arena.lies_in(x) is None else []
        slots = []
        for nbytes in (*rooms, _output_of(x, steps)):
            slots.append((yield from self._room(nbytes, must=True)))  # noqa: PERF401 - no comprehension may yield
        return None not in slots

    def empty(self, made: Array) -> Talk[Array]:
        """An array like `made` that `convolve` need not copy; `made` itself if there is no room."""
        slot = yield from self._room(max(made.nbytes, 1), must=True)
        return made if slot is None else slot.array(made.dtype, made.shape)

    def close(self) -> list[Ask]:
        """What tells the server that its memory can go."""
        self._arena.close()
        return [_letting_go(region) for region in self._arena.retired]

    def _step(
        self, i: int, step: Step, used: list[Segment], slots: list[Slot], *, without: bool
    ) -> Talk[spec_pb2.Step]:
        message = spec_pb2.Step(spec=spec_to_wire(step.spec))
        for name, array in (("kernel", step.kernel), ("bias", step.bias)):
            if array is not None:
                at = None if without else (yield from self._place(array, used, slots))
                field = f"steps[{i}].{name}"
                tensor = to_wire(array, field) if at is None else placed(array.dtype, array.shape, *at)
                getattr(message, name).CopyFrom(tensor)
        return message

    def _place(self, x: Array, used: list[Segment], slots: list[Slot]) -> Talk[tuple[str, int] | None]:
        """Where an array lies, region and offset, perhaps a copy made now; None if it is to travel in the message."""
        if x.nbytes < INLINE or self._off:
            return None
        at = self._arena.lies_in(x)
        if at is None:
            slot = yield from self._room(x.nbytes)
            if slot is None:
                return None
            slot.array(x.dtype, x.shape)[...] = x
            slots.append(slot)
            at = slot.segment, slot.offset
        segment, offset = at
        used.append(segment)
        return str(segment.region), offset

    def _room(self, nbytes: int, *, must: bool = False) -> Talk[Slot | None]:
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

    def _grow(self, nbytes: int, *, must: bool) -> Talk[bool]:
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
            raw = yield Ask(_REGISTER, request.SerializeToString())
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

    def _unregister(self) -> Talk[None]:
        try:
            region = self._arena.retired.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            yield Ask(_UNREGISTER, _letting_go(region).message)
        except GroupconvError:  # the server lets it go by itself in time
            return


def _output_of(x: Array, steps: Sequence[Step]) -> int:
    specs, kernels = tuple(s.spec for s in steps), [s.kernel for s in steps]
    return output_nbytes(x.shape, x.dtype, specs, tuple(k.shape for k in kernels), tuple(k.dtype for k in kernels))


@functools.lru_cache(maxsize=1024)
def _input_at(dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int) -> bytes:
    """The field of a request that says where its input lies."""
    return convolution_pb2.ConvolveRequest(input=placed(dtype, shape, region, offset)).SerializeToString()


@functools.lru_cache(maxsize=1024)
def _output_at(region: str, offset: int, size: int) -> bytes:
    """The field of a request that says where its output is wanted."""
    place = tensor_pb2.Place(region=region, offset=offset, byte_size=size)
    return convolution_pb2.ConvolveRequest(output_place=place).SerializeToString()


_said = functools.lru_cache(maxsize=1024)(lambda raw: taken_apart(raw)[0])
"""A short answer, without the output's bytes: those of one layer are mostly the same."""


def _answer(raw: bytes, target: Slot | None, asked: tuple[str, int, int] | None) -> Answer:
    """The answer with the bytes of its output, wherever they are."""
    response = _said(raw) if len(raw) <= BRIEF else taken_apart(raw)[0]
    if not response.output.HasField("place"):
        return read_answer(raw)
    place = response.output.place
    if target is None or asked is None or (place.region, place.offset) != asked[:2]:
        raise DataLossError("the server answered with an output in memory that it was not given")
    return response, from_wire(response.output, "output", target.bytes().data[: place.byte_size])


def _letting_go(region: str) -> Ask:
    return Ask(_UNREGISTER, memory_pb2.UnregisterMemoryRequest(region=region).SerializeToString())


@functools.lru_cache(maxsize=1024)
def output_nbytes(
    shape: tuple[int, ...],
    dtype: np.dtype,
    specs: tuple[ConvSpec, ...],
    kernel_shapes: tuple[tuple[int, ...], ...],
    kernel_dtypes: tuple[np.dtype, ...],
) -> int:
    """Bytes of the last output of steps on an input.

    Raises:
        InvalidArgumentError: steps that cannot be.

    Example:
        >>> output_nbytes((1, 1, 9), np.dtype("int8"), (ConvSpec(),), ((2, 1, 3),), (np.dtype("int8"),))
        56
    """
    last = geometries(specs, shape, kernel_shapes)[-1]
    for kernel in kernel_dtypes:
        dtype = types_of(dtype, kernel).output
    return int(np.prod(last.output_shape, dtype=object)) * dtype.itemsize
