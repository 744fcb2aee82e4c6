"""Compiled calls: all that steps need for inputs of one shape and dtype, made once and run for each request.

The version of a layer keeps its calls. A request that brings its own weights makes one and throws it away. The models
are opt_einsum's `contract_expression` and XLA's executables.
"""

from collections.abc import Sequence

import numpy as np

from groupconv.convolution.cost import bytes_out
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.dispatch import ChainTasks, dispatch
from groupconv_server.coordinator.footprint import IN_PLACE, footprint
from groupconv_server.coordinator.routes import Route, routes_of
from groupconv_server.executors.task import Task
from groupconv_server.planner import KnownPlan, PlannedChain
from groupconv_worker.contract import Array, Problem, new_empty

KEPT = 64
"""Plans of a call that are kept, and chains whose routes are: they differ in the workers that take part."""


class CompiledCall:
    """Steps on inputs of one shape and dtype, checked. Safe to use from several threads.

    Args:
        problems: geometry and dtypes of each step, checked.
        steps: with arrays.
        reordering: whether a sum over input channels may be taken in parts, which changes its rounding.
        cut: that was requested, by its name; "" leaves it to the planner.

    Attributes:
        problems, steps, reordering, cut: as given.
        output_shape, output_dtype: of the last output, (N, M, *spatial).
        output_bytes: of it.
        working_bytes: that the costliest step holds beside input and answer (`footprint`).
        plans: by the workers there were and the most shards of a step.
    """

    def __init__(
        self, problems: Sequence[Problem], steps: Sequence[Step], *, reordering: bool = False, cut: str = ""
    ) -> None:
        self.problems, self.steps, self.reordering, self.cut = tuple(problems), steps, reordering, cut
        last = self.problems[-1]
        self.output_shape: tuple[int, ...] = last.geometry.output_shape
        self.output_dtype: np.dtype = last.types.output
        self.output_bytes = bytes_out(last.geometry, last.types)
        self.working_bytes = footprint(self.problems, IN_PLACE)
        self.plans: dict[tuple[tuple[str, ...], int], KnownPlan] = {}
        self._routes: tuple[tuple[PlannedChain, tuple[Route, ...]], ...] = ()

    def keep(self, workers: tuple[str, ...], at_most: int, plan: KnownPlan) -> None:
        """Keep a plan for these workers."""
        if len(self.plans) >= KEPT:
            self.plans = {}
        self.plans[workers, at_most] = plan

    def routes(self, chain: PlannedChain) -> tuple[Route, ...]:
        """The shards of a chain of a plan, all but their arrays."""
        for known, routes in self._routes:
            if known is chain:
                return routes
        new_routes = routes_of(chain, self.steps[chain.first : chain.first + len(chain.chain)])
        # replaced as a whole, as other threads may look through it; what one of them adds meanwhile is made again
        self._routes = ((chain, new_routes), *self._routes[: KEPT - 1])
        return new_routes

    def dispatch(self, chain: PlannedChain, x: Array, output: Array | None = None) -> ChainTasks:
        """The tasks of a chain.

        Args:
            chain: of a plan of this call.
            x: (N, C, *spatial) of its first step.
            output: of its last step, to be filled; None allocates it.
        """
        if output is None:
            last = chain.chain[-1]
            output = new_empty(x, last.geometry.output_shape, last.types.output)
        routes = self.routes(chain)
        if len(routes) == 1 and routes[0].plain:  # nothing is cut
            route = routes[0]
            return ChainTasks([Task(0, route.worker, route.stages, x, output)], output)
        return dispatch(chain, routes, self.steps[chain.first + len(chain.chain) - 1], x, output)
