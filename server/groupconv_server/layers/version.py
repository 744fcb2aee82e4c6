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
from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import ALGORITHM, Model

PLANS = 64
"""Plans that a network's version keeps, one for each set of input shapes."""


@dataclass
class Usage:
    """What one version of a layer did: requests answered and failed, samples, seconds in the coordinator."""

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
        """Of the input that its metadata names, and of the output then."""
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
    _plans: LRUCache[tuple[tuple[str, tuple[int, ...]], ...], NetworkPlan] = field(
        default_factory=lambda: LRUCache(PLANS), repr=False, kw_only=True
    )
    _answered: LRUCache[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, Sequence[str]]] = field(
        default_factory=lambda: LRUCache(PLANS), repr=False, kw_only=True
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, kw_only=True)

    def bind(self, shapes: Mapping[str, Sequence[int]], most: int) -> NetworkPlan:
        """What a call with inputs of these shapes computes; the last ones are kept.

        Args:
            shapes: by the inputs' names.
            most: bytes that a tensor may have.

        Raises:
            InvalidArgumentError: shapes that do not fit the network.
            ResourceExhaustedError: a tensor would have more.
        """
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            plan = self._plans.get(key)
        if plan is None:
            check_shapes(self.model.inputs, shapes)
            plan = self.skeleton.bind(shapes, most=most)
            with self._lock:
                self._plans[key] = plan
                self._answered.pop(key, None)
        return plan

    def timed(self, shapes: Mapping[str, Sequence[int]], seconds: Mapping[str, float]) -> None:
        """Plans of these shapes say from now on how long nodes took, by their first outputs."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                nodes = tuple(replace(n, seconds=seconds.get(n.outputs[0]) if n.outputs else None) for n in plan.nodes)
                self._plans[key] = replace(plan, nodes=nodes)

    def answered_by(self, shapes: Mapping[str, Sequence[int]], algorithm: str, theirs: Sequence[str] = ()) -> None:
        """Plans of these shapes say from now on who answered the last call of them.

        Args:
            shapes: of the call's inputs.
            algorithm: who computed the nodes.
            theirs: outputs of nodes that onnxruntime computed nevertheless.
        """
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:  # a look-up reorders the cache
            plan = self._plans.get(key)
            if plan is None or self._answered.get(key, (ALGORITHM, ())) == (algorithm, theirs):
                return
            others = set(theirs)
            nodes = tuple(
                replace(node, algorithm=algorithm if others.isdisjoint(node.outputs) else ALGORITHM)
                for node in plan.nodes
            )
            self._plans[key], self._answered[key] = replace(plan, nodes=nodes), (algorithm, theirs)

    @functools.cached_property
    def skeleton(self) -> Skeleton:
        """What shape inference makes of the model."""
        return Skeleton(self.model)

    @functools.cached_property
    def optimized(self) -> Optimized:
        """The model, ready to be bound to shapes as a graph.

        Raises:
            UnboundGraphError: it has no graph.
        """
        return Optimized(self.model)


@dataclass
class Reservation:
    """Bytes reserved for a layer that is about to be loaded."""

    bytes: int
