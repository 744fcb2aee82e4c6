"""Calls of networks: checked and counted before a worker runs them."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv.networks.plan import NetworkReport, PartReport
from groupconv.networks.tensors import TensorInfo
from groupconv_server.admission.gate import reserve
from groupconv_server.coordinator.footprint import IN_MESSAGE
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors.base import Executor
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.cuts import plan_cuts
from groupconv_server.planner.networks.costs import Costs
from groupconv_worker.contract import Array
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import Cuts
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import WHOLE, NetworkCall

Allocate = Callable[[str, np.dtype, tuple[int, ...]], Array]
"""Makes the array of an output, by its name, dtype and shape."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a call by name, and how they were made."""

    arrays: dict[str, Array]
    report: NetworkReport


class NetworkCalls:
    """Runs calls of networks.

    Args:
        registry: of the networks, which knows what their programs take.
        executor: of the workers.
        limits: of requests.

    Attributes:
        costs: gives those of nodes and exchanges, as the planner knows them.
    """

    def __init__(self, registry: Layers, executor: Executor, limits: Limits) -> None:
        self._registry, self._executor, self._limits = registry, executor, limits
        self.costs: Callable[[], Costs] = functools.partial(Costs.of, ())

    def run(
        self,
        network: NetworkVersion,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        job: Job,
        allocate: Allocate | None = None,
        *,
        window: bool = False,
        cut: str = "",
        given: Cuts | None = None,
        times: bool = False,
    ) -> Outputs:
        """Run a network on its inputs.

        Args:
            network: a version that is kept for this call (`Layers.using`).
            inputs: by name.
            outputs: names of those wanted; none means all.
            job: of the caller.
            allocate: makes the array of a single output whose shape is known.
            window: whether this is a window of a stream. All of them run as sessions, so that they round alike.
            cut: along what the network is to be cut over the workers; empty leaves it to the executor.
            given: cuts of some tensors that a planned cut keeps.
            times: whether to take the time of each node, for plans. The network is not cut then.

        Raises:
            InvalidArgumentError: naming the input, output or cut, what was expected and what came.
            ResourceExhaustedError: a tensor or an answer over the limit.
            DeadlineExceededError, CancelledError, UnavailableError: as of `Executor.run`.
        """
        start = time.perf_counter()
        model = network.model
        wanted = tuple(outputs) or tuple(info.name for info in model.outputs)
        _check_outputs(model, wanted)
        shapes = {name: array.shape for name, array in inputs.items()}
        bound = network.bind(shapes, self._limits.tensor_bytes)
        _check_dtypes(model, inputs)
        known = sum(_nbytes(info.shape, info.dtype.itemsize) for info in bound.outputs if info.name in wanted)
        self._limits.check_message(known)
        reserve(bound.peak_bytes + IN_MESSAGE * known)
        into = {} if allocate is None else _allocated([info for info in bound.outputs if info.name in wanted], allocate)
        spare = -1 if window else self._registry.spare
        cut = cut or (WHOLE if times else "")
        planner = functools.partial(self._planned, network, shapes)
        call = NetworkCall(
            network.name,
            network.version,
            inputs,
            wanted,
            into,
            bound.peak_bytes,
            spare,
            cut,
            given or {},
            planner,
            times,
        )
        worker, ran = self._executor.run_network(call, model, job)
        answer = sum(array.nbytes for array in ran.outputs.values())
        self._limits.check_message(answer)
        self._registry.grow(network, worker, ran.program_bytes)
        network.answered_by(shapes, ran.algorithm, ran.theirs)
        if ran.node_times:
            network.timed(shapes, ran.node_times)
        parts = ran.parts or (PartReport(ran.algorithm, model.nodes, ran.seconds, ran.reason),)
        moved = ran.coordinator_bytes
        if moved is None:
            moved = answer + sum(array.nbytes for array in inputs.values())
        took = time.perf_counter() - start
        network.last = NetworkReport(worker, parts, moved, took, ran.exchanges, ran.cut)
        return Outputs(ran.outputs, network.last)

    def _planned(
        self, network: NetworkVersion, shapes: Mapping[str, Sequence[int]], given: Cuts, nodes: Sequence[int]
    ) -> Cuts:
        """As of `CutPlanner`."""
        reserve(network.bytes)  # as of `plan`: the model is optimized once more
        plan, cuts = plan_cuts(network.model, shapes, nodes, 1, self.costs(), given)
        return cuts if plan.used > 1 else {}


def _check_outputs(model: Model, wanted: Sequence[str]) -> None:
    known = [info.name for info in model.outputs]
    for i, name in enumerate(wanted):
        if name not in known or name in wanted[:i]:
            raise InvalidArgumentError(f"outputs[{i}]", f"one of {', '.join(map(repr, known))}, once", repr(name))


def _check_dtypes(model: Model, inputs: Mapping[str, Array]) -> None:
    for info in model.inputs:
        if inputs[info.name].dtype != info.dtype:
            raise InvalidArgumentError(f"inputs[{info.name!r}].dtype", str(info.dtype), str(inputs[info.name].dtype))


def _allocated(outputs: Sequence[TensorInfo], allocate: Allocate) -> dict[str, Array]:
    """The array of an output that is the only one and has a known shape; else none."""
    if len(outputs) != 1 or not all(isinstance(extent, int) for extent in outputs[0].shape):
        return {}
    (info,) = outputs
    return {info.name: allocate(info.name, info.dtype, info.shape)}  # type: ignore[arg-type] # as checked


def _nbytes(shape: Sequence[int | str | None], itemsize: int) -> int:
    """Bytes of a tensor, 0 if an extent is not known."""
    return itemsize * math.prod(extent if isinstance(extent, int) else 0 for extent in shape)
