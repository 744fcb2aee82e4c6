"""A stream through a network on the client, without the transport: windows to call, and where their outputs go."""

import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypedDict

import numpy as np

from groupconv import network_calls
from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv.network_calls import NetworkResult
from groupconv.networks.info import NetworkInfo
from groupconv.networks.tensors import named_inputs
from groupconv.networks.windows import StreamPlan, Window
from groupconv.streaming.maps import Iterated, Sink, Sliced, Source
from groupconv.streaming.overlap import check_apart
from groupconv.streaming.progress import Progress, ProgressCallback, callback, close
from groupconv.transport.exchange import Exchange


class NetworkStreaming(TypedDict, total=False):
    """Options of a stream through a network, see `Client.stream_network`."""

    outputs: Sequence[str]
    out: Any
    shape: Sequence[int] | None
    dtype: Any
    progress: ProgressCallback | bool | None
    window_bytes: int


class NetworkStream:
    """One stream. Only one thread may use it, apart from the calls that it makes.

    Args:
        info: of the network.
        x: the first input, or a mapping of names to all of them.
        options: of the stream.

    Attributes:
        plan: how it is cut; None until the server has said so.
        done: windows whose outputs are there.
        resumed: calls that were tried again.
        progress: called after each window.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """

    def __init__(
        self,
        info: NetworkInfo,
        x: Any,
        *,
        outputs: Sequence[str] = (),
        out: Any = None,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        progress: ProgressCallback | bool | None = None,
        window_bytes: int = 0,
    ) -> None:
        if isinstance(outputs, str):
            raise InvalidArgumentError("outputs", "a list of names", outputs)
        maps = dict(x) if isinstance(x, Mapping) else named_inputs(info.inputs, [x], {})
        self._info, self._outputs, self._out = info, tuple(outputs), out
        self._window_bytes = window_bytes
        infos = {i.name: i for i in info.inputs}
        self._sources: dict[str, Source] = {}
        self._others: dict[str, Any] = {}
        self._arrays: list[Any] = []
        for name, value in maps.items():
            if name not in infos or len(infos[name].shape) < 3:
                self._others[name] = value
            elif hasattr(value, "shape") and hasattr(value, "__getitem__"):
                self._sources[name] = Sliced(value, infos[name])
                self._arrays.append(value)
            elif hasattr(value, "__iter__") and not isinstance(value, list | tuple):
                if shape is None or dtype is None:
                    raise InvalidArgumentError("shape", "shape and dtype, for an iterator of bands", shape)
                self._sources[name] = Iterated(value, shape, dtype, infos[name])
            else:
                expected = "an array with slices, or an iterator of bands"
                raise InvalidArgumentError(f"inputs[{name!r}]", expected, type(value).__name__)
        self.plan: StreamPlan | None = None
        self.done = self.resumed = 0
        self._sinks: dict[str, Sink] = {}
        self._received, self._began = 0, time.monotonic()
        self.progress = callback(progress)

    @property
    def started(self) -> bool:
        """Whether the server has answered."""
        return self.plan is not None

    def planned(self) -> Exchange[StreamPlan]:
        """Have the server plan."""
        shapes = {name: source.shape for name, source in self._sources.items()}
        shapes |= {name: np.shape(value) for name, value in self._others.items()}
        return network_calls.plan_stream(self._info, shapes, self._outputs, self._window_bytes)

    def prepare(self) -> Exchange[StreamPlan]:
        """Have the server plan, and make the outputs."""
        plan = yield from self.planned()
        unbatched = any(source.unbatched for source in self._sources.values())
        outs = self._out if isinstance(self._out, Mapping) else {plan.outputs[0].name: self._out}
        if len(plan.outputs) > 1 and self._out is not None and not isinstance(self._out, Mapping):
            names = ", ".join(repr(info.name) for info in plan.outputs)
            raise InvalidArgumentError("out", f"a mapping with {names}", self._out)
        for source, sink in itertools.product(self._arrays, outs.values()):
            check_apart(source, sink)
        self._sinks = {info.name: Sink(outs.get(info.name), info, unbatched=unbatched) for info in plan.outputs}
        self.plan = plan
        return plan

    def arrays(self, window: Window) -> dict[str, Any]:
        """The inputs of one window."""
        return {name: source.read(window.inputs) for name, source in self._sources.items()} | self._others

    def call(self, arrays: Mapping[str, Any]) -> Exchange[NetworkResult]:
        """The call of one window."""
        assert self.plan is not None
        names = [info.name for info in self.plan.outputs]
        return network_calls.run(self._info, (), arrays, outputs=names, report=False, version=self.plan.version)

    def put(self, window: Window, result: NetworkResult) -> None:
        """Write the outputs of a window.

        Raises:
            DataLossError: they have other extents than the plan says.
        """
        assert self.plan is not None
        for name, y in result.outputs.items():
            part = y[window.taken[name]]
            wanted = tuple(
                n if s.stop is None else s.stop - s.start for s, n in zip(window.placed[name], y.shape, strict=False)
            )
            if part.shape != wanted:
                raise DataLossError(f"output {name!r}: a window gives {part.shape} where {wanted} were planned")
            self._sinks[name].write(window.placed[name], part)
            self._received += part.nbytes
        self.done += 1
        if self.progress is not None:
            seconds = time.monotonic() - self._began
            self.progress(Progress(self.done, self.plan.count, self._received, seconds))

    def put_oldest(self, pending: deque[tuple[Window, Future[NetworkResult]]]) -> None:
        """Take the first window, wait for its outputs, and write them.

        Raises:
            GroupconvError: its call failed.
        """
        window, answer = pending.popleft()
        try:
            self.put(window, answer.result())
        finally:
            del answer  # it keeps the error, which knows this frame, so that arrays would wait for the collector

    def filled(self) -> Any:
        """The outputs, after the last window: one as it is, several by name."""
        outs = {name: sink.out for name, sink in self._sinks.items()}
        return next(iter(outs.values())) if len(outs) == 1 else outs

    def close(self) -> None:
        """Close the progress bar, if there is one."""
        close(self.progress)
