"""Networks on the server: `net = client.load_network(...)`, then `net(x)`."""

import asyncio
import contextlib
import html
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from groupconv import network_calls
from groupconv.async_session import small
from groupconv.convolution.html import html_table
from groupconv.network_calls import CutOfNetwork, NetworkResult
from groupconv.networks.info import NetworkInfo
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.state import NetworkState, StateCallback
from groupconv.networks.tensors import TensorInfo
from groupconv.transport.exchange import Exchange

Array = NDArray[Any]


class BaseNetwork:
    """The description of a network, for both clients.

    Attributes:
        info: the description from when the network was loaded.
    """

    info: NetworkInfo

    @property
    def name(self) -> str:
        """The network's name."""
        return self.info.name

    @property
    def version(self) -> int:
        """The version that was loaded."""
        return self.info.version

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs, in the model's order."""
        return self.info.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs, in the model's order."""
        return self.info.outputs

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, infos)) for infos in (self.inputs, self.outputs))
        return f"<{type(self).__name__} {self.name!r} version {self.version}: {inputs} -> {outputs}>"

    def _repr_html_(self) -> str:
        rows = [("", "name", "dtype", "shape")]
        for kind, infos in (("input", self.inputs), ("output", self.outputs)):
            rows += [(kind, info.name, str(info.dtype), str(info).partition(" (")[2].rstrip(")")) for info in infos]
        return f"<p>{html.escape(str(self.info).partition(chr(10))[0])}</p>{html_table(rows)}"


class Network(BaseNetwork):
    """A network on the server: call it with its inputs. A context manager, which unloads the network at the end.

    A call runs the version that is currently loaded under the name.

    Example:
        with client.load_network("ocr/det", "det.onnx") as net:
            y = net(image)  # or by name: net(x=image)
    """

    def __init__(
        self,
        info: NetworkInfo,
        run: Callable[[Exchange[Any], float | None], Any],
        get: Callable[[str], "Network"],
        unload: Callable[[str], None],
    ) -> None:
        self.info = info
        self._run, self._get, self._unload = run, get, unload

    def __call__(self, *arrays: Any, **named: Any) -> Array | dict[str, Array]:
        """The output for these inputs: one array, or a mapping of names to arrays where the network has several.

        Args:
            arrays: inputs in the network's order. A float array is converted to the network's float dtype; another one
                if that changes no value.
            named: the other inputs, by name.

        Raises:
            InvalidArgumentError: it names the input, what was expected and what came.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        exchange = network_calls.run(self.info, arrays, named, report=False)
        return unpacked(self._run(exchange, None).outputs)

    def run(
        self,
        *arrays: Any,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        cut: CutOfNetwork = None,
        times: bool = False,
        timeout: float | None = None,
    ) -> NetworkResult:
        """The outputs, and a report of how the server computed them.

        Args:
            arrays: inputs in the network's order.
            inputs: the other inputs, by name.
            outputs: names of those wanted; none means all.
            cut: what to cut the network along over the workers: "nothing", "samples", "channels", "rows" or "columns";
                "planned", each tensor as the planner says; a plan over workers, which is followed; or None, which
                leaves it to the server.
            times: whether `plan` is to show the time of each node. Where onnxruntime answers, the network runs again
                for it, and the answer waits; a program has its times from when it was measured.
            timeout: seconds, in place of the client's.
        """
        by_name = inputs or {}
        call = network_calls.run(self.info, arrays, by_name, outputs=outputs, report=True, cut=cut, times=times)
        result: NetworkResult = self._run(call, timeout)
        return result

    def plan(
        self, *shapes: Sequence[int], workers: int = 0, in_flight: int = 1, nodes: int = 1, **named: Sequence[int]
    ) -> NetworkPlan:
        """What a call with inputs of these shapes would compute, node by node; `print(plan)` shows the table.

        Args:
            shapes: of the inputs, in the network's order.
            workers: to cut the network over, in `plan.cuts`: any number, whether they exist or not.
            in_flight: calls at a time that share these workers.
            nodes: that have them; what crosses between nodes goes by TCP.
            named: shapes of the other inputs, by name.

        Raises:
            FailedPreconditionError: workers are asked for, and shapes in the network depend on what it computes.
        """
        plan: NetworkPlan = self._run(network_calls.plan(self.info, shapes, named, workers, in_flight, nodes), None)
        return plan

    def statistics(self) -> NetworkInfo:
        """The server's current description: version, bytes, requests, seconds."""
        return self._get(self.name).info

    def state(self) -> NetworkState:
        """Who answers the calls of this network now, and how far its program is; `str(state)` says it in words."""
        return self.statistics().state

    def wait(
        self,
        *arrays: Any,
        inputs: Mapping[str, Any] | None = None,
        progress: StateCallback | bool | None = None,
        timeout: float | None = None,
    ) -> NetworkState:
        """Block until no program of this network is compiled or measured.

        The first call of a network has a program made for it, beside the calls. So give inputs here, or call it before.

        Args:
            arrays: inputs in the network's order, which it is called with first.
            inputs: the other inputs, by name.
            progress: function to call with each `NetworkState`; True shows a line on stderr.
            timeout: seconds; None waits as long as it takes.

        Raises:
            FailedPreconditionError: it was not called yet, and no inputs are given.
            DeadlineExceededError: it took longer.

        Example:
            net.wait(np.zeros((1, 3, 224, 224), np.float32), progress=True)
        """
        with contextlib.closing(network_calls.wait(self.info, arrays, inputs, progress, timeout)) as steps:
            try:
                step = next(steps)
                while True:
                    if isinstance(step, float):
                        time.sleep(step)
                        step = next(steps)
                    else:
                        step = steps.send(self._run(step, None))
            except StopIteration as end:
                state: NetworkState = end.value
                return state

    def unload(self) -> None:
        """Remove the network from the server.

        Raises:
            NotFoundError: the server no longer has it.
        """
        self._unload(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.unload()


class AsyncNetwork(BaseNetwork):
    """`Network` with `await`; an async context manager."""

    def __init__(
        self,
        info: NetworkInfo,
        run: Callable[..., Awaitable[Any]],
        get: Callable[[str], Awaitable["AsyncNetwork"]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self.info = info
        self._run, self._get, self._unload = run, get, unload

    async def __call__(self, *arrays: Any, **named: Any) -> Array | dict[str, Array]:
        """As `Network.__call__`."""
        result = await self._run(
            network_calls.run(self.info, arrays, named, report=False), None, small=small(*arrays, *named.values())
        )
        return unpacked(result.outputs)

    async def run(
        self,
        *arrays: Any,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        cut: CutOfNetwork = None,
        times: bool = False,
        timeout: float | None = None,
    ) -> NetworkResult:
        """As `Network.run`."""
        result: NetworkResult = await self._run(
            network_calls.run(self.info, arrays, inputs or {}, outputs=outputs, report=True, cut=cut, times=times),
            timeout,
            small=small(*arrays, *(inputs or {}).values()),
        )
        return result

    async def plan(
        self, *shapes: Sequence[int], workers: int = 0, in_flight: int = 1, nodes: int = 1, **named: Sequence[int]
    ) -> NetworkPlan:
        """As `Network.plan`."""
        plan: NetworkPlan = await self._run(
            network_calls.plan(self.info, shapes, named, workers, in_flight, nodes), None
        )
        return plan

    async def statistics(self) -> NetworkInfo:
        """As `Network.statistics`."""
        return (await self._get(self.name)).info

    async def state(self) -> NetworkState:
        """As `Network.state`."""
        return (await self.statistics()).state

    async def wait(
        self,
        *arrays: Any,
        inputs: Mapping[str, Any] | None = None,
        progress: StateCallback | bool | None = None,
        timeout: float | None = None,
    ) -> NetworkState:
        """As `Network.wait`."""
        fits = small(*arrays, *(inputs or {}).values())
        with contextlib.closing(network_calls.wait(self.info, arrays, inputs, progress, timeout)) as steps:
            try:
                step = next(steps)
                while True:
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                        step = next(steps)
                    else:
                        step = steps.send(await self._run(step, None, small=fits))
            except StopIteration as end:
                state: NetworkState = end.value
                return state

    async def unload(self) -> None:
        """As `Network.unload`."""
        await self._unload(self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.unload()


def unpacked(outputs: dict[str, Array]) -> Array | dict[str, Array]:
    """The one output as an array; several as they are."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
