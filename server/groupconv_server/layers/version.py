"""One version of a layer, and the bytes of one that is about to be loaded."""

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cachetools import LRUCache

from groupconv.convolution.spec import Math
from groupconv.convolution.steps import Step
from groupconv.networks.plan import NetworkPlan, NetworkReport
from groupconv.networks.tensors import check_shapes
from groupconv_server.coordinator.resident import ResidentStep, resident_steps
from groupconv_server.coordinator.steps import input_types
from groupconv_worker.graph.binding import Binding, Skeleton
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import ALGORITHM, Model
from groupconv_worker.graph.profiling import NodeTimes

PLANS = 64
"""Sets of input shapes of which a network's version remembers what it knows."""


@dataclass
class Usage:
    """The usage of one version: requests answered and failed, samples, seconds in the coordinator."""

    requests: int = 0
    failures: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Version:
    """One version of something that is loaded under a name: a layer or a network.

    Attributes:
        name, version: every load has a higher version.
        bytes: that count against the server's quota.
        usage: what it did.
        running: requests that use it now.
        used: when it was used last, as a number that grows.
        gone: whether it was unloaded or replaced.
    """

    name: str
    version: int
    bytes: int
    usage: Usage = field(default_factory=Usage, kw_only=True)
    running: int = field(default=0, kw_only=True)
    used: int = field(default=0, kw_only=True)
    gone: bool = field(default=False, kw_only=True)


@dataclass(eq=False)
class LayerVersion(Version):
    """One version of a layer.

    Attributes:
        steps: with their weights, whose bytes count.
    """

    steps: tuple[ResidentStep, ...]
    _variants: dict[tuple[bool, Math | None], tuple[ResidentStep, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    @functools.cached_property
    def dtypes(self) -> tuple[np.dtype, np.dtype]:
        """The dtype of the input that the layer's metadata names, and that of the output for it."""
        return next(iter(input_types(self.steps).items()))

    def steps_with(self, *, exact: bool = False, math: Math | None = None) -> tuple[ResidentStep, ...]:
        """The steps as a request wants them, which the workers prepare apart from those that were loaded.

        Args:
            exact: only sums of the products.
            math: what float32 factors may be rounded to; None for what each step says.

        Raises:
            InvalidArgumentError: there is no such `math`, or it rounds and the sums are to be exact.
        """
        if not exact and math is None:
            return self.steps
        if (exact, math) not in self._variants:
            specs = [
                replace(s.spec, exact=exact or s.spec.exact, math=s.spec.math if math is None else math)
                for s in self.steps
            ]
            plain = [Step(s.kernel, s.bias, spec) for s, spec in zip(self.steps, specs, strict=True)]
            same = all(s.spec == spec for s, spec in zip(self.steps, specs, strict=True))
            self._variants[exact, math] = self.steps if same else resident_steps(self.name, self.version, plain)
        return self._variants[exact, math]


@dataclass(slots=True)
class ShapesOfCalls:
    """What is known of the calls of a network with inputs of the same shapes.

    Attributes:
        binding: the model with these shapes.
        algorithm: who answered the last call.
        theirs: outputs of nodes that onnxruntime computed nevertheless.
        times: of the nodes when they were timed last; None before.
    """

    binding: Binding
    algorithm: str = ALGORITHM
    theirs: Sequence[str] = ()
    times: NodeTimes | None = None

    def plan(self) -> NetworkPlan:
        """The plan of a call, with what computes each node."""
        plan, theirs, times = self.binding.plan, set(self.theirs), self.times or NodeTimes({}, {})
        names = {node.outputs[0]: node.name for node in plan.nodes if node.outputs}
        nodes = tuple(
            replace(
                node,
                algorithm=self.algorithm if theirs.isdisjoint(node.outputs) else ALGORITHM,
                seconds=times.seconds.get(node.outputs[0]) if node.outputs else None,
                fused_into=names.get(times.fused.get(node.outputs[0], ""), "") if node.outputs else "",
            )
            for node in plan.nodes
        )
        return replace(plan, nodes=nodes)


@dataclass(eq=False)
class NetworkVersion(Version):
    """One version of a network.

    Attributes:
        model: as it was loaded.
        last: how the last call was answered; None before the first one.
        program_bytes: of the programs of it on each worker, which `bytes` counts.
    """

    model: Model
    last: NetworkReport | None = field(default=None, kw_only=True)
    program_bytes: dict[str, int] = field(default_factory=dict, kw_only=True)
    _known: LRUCache[tuple[tuple[str, tuple[int, ...]], ...], ShapesOfCalls] = field(
        default_factory=lambda: LRUCache(PLANS), repr=False, kw_only=True
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, kw_only=True)

    def bind(self, shapes: Mapping[str, Sequence[int]], most: int) -> Binding:
        """The model with inputs of these shapes; the last ones are kept.

        Args:
            shapes: by the inputs' names.
            most: bytes that a tensor may have.

        Raises:
            InvalidArgumentError: shapes that do not fit the network.
            ResourceExhaustedError: a tensor would have more.
        """
        return self._of(shapes, most).binding

    def plan(self, shapes: Mapping[str, Sequence[int]], most: int) -> NetworkPlan:
        """The plan of a call with inputs of these shapes, and the report of the last one. Errors: as of `bind`."""
        return replace(self._of(shapes, most).plan(), last=self.last)

    def _of(self, shapes: Mapping[str, Sequence[int]], most: int) -> ShapesOfCalls:
        calls = self._look_up(shapes)
        if calls is None:
            check_shapes(self.model.inputs, shapes)
            calls = ShapesOfCalls(self.skeleton.bind(shapes, most=most))
            with self._lock:
                self._known[_key(shapes)] = calls
        return calls

    def _look_up(self, shapes: Mapping[str, Sequence[int]]) -> ShapesOfCalls | None:
        with self._lock:  # a look-up reorders the cache
            return self._known.get(_key(shapes))

    def timed(self, shapes: Mapping[str, Sequence[int]], times: NodeTimes) -> None:
        """Plans of these shapes say from now on how long nodes took."""
        calls = self._look_up(shapes)
        if calls is not None:
            calls.times = times

    def answered_by(self, shapes: Mapping[str, Sequence[int]], algorithm: str, theirs: Sequence[str] = ()) -> None:
        """Plans of these shapes say from now on who answered the last call of them.

        Args:
            shapes: of the call's inputs.
            algorithm: who computed the nodes.
            theirs: outputs of nodes that onnxruntime computed nevertheless.
        """
        calls = self._look_up(shapes)
        if calls is not None:
            calls.algorithm, calls.theirs = algorithm, theirs

    @functools.cached_property
    def skeleton(self) -> Skeleton:
        """The model after shape inference."""
        return Skeleton(self.model)

    @functools.cached_property
    def optimized(self) -> Optimized:
        """The model, ready to be bound to shapes as a graph.

        Raises:
            UnboundGraphError: it has no graph.
        """
        return Optimized(self.model)


def _key(shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))


@dataclass
class Reservation:
    """Bytes reserved for a layer that is about to be loaded."""

    bytes: int
