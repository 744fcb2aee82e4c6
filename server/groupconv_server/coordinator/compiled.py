"""Compiled calls: what steps need for inputs of one shape and dtype, made once, run as often as requests come.

A layer keeps the calls it has met with its version, and they go with it. A request that brings its own weights makes
one and throws it away. opt_einsum's `contract_expression` and XLA's executables are the models.
"""

from collections.abc import Sequence

import numpy as np

from groupconv.convolution.cost import bytes_out
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.dispatch import Dispatch, dispatch
from groupconv_server.coordinator.footprint import IN_PLACE, footprint
from groupconv_server.coordinator.routes import Route, routes_of
from groupconv_server.planner import PlannedChain
from groupconv_worker.contract import Array, Problem

ROUTES = 64
"""Plans of one call whose routes are kept: they differ in the workers that take part."""


class CompiledCall:
    """Steps on inputs of one shape and dtype, checked. Safe to use from several threads.

    Args:
        problems: what each step is, checked.
        steps: with arrays.
        reordering: whether a sum over input channels may be taken in parts, which changes its rounding.

    Attributes:
        problems, steps, reordering: as given.
        output_shape, output_dtype: of the last output, (N, M, *spatial).
        output_bytes: of it.
        working_bytes: what the costliest step holds beside input and answer (`footprint`).
    """

    __slots__ = (
        "_routes",
        "output_bytes",
        "output_dtype",
        "output_shape",
        "problems",
        "reordering",
        "steps",
        "working_bytes",
    )

    def __init__(self, problems: Sequence[Problem], steps: Sequence[Step], *, reordering: bool = False) -> None:
        self.problems, self.steps, self.reordering = tuple(problems), steps, reordering
        last = self.problems[-1]
        self.output_shape: tuple[int, ...] = last.geometry.output_shape
        self.output_dtype: np.dtype = last.types.output
        self.output_bytes = bytes_out(last.geometry, last.types)
        self.working_bytes = footprint(self.problems, IN_PLACE)
        self._routes: tuple[tuple[PlannedChain, tuple[Route, ...]], ...] = ()

    def routes(self, chain: PlannedChain) -> tuple[Route, ...]:
        """The shards of a chain of the plan, all but their arrays."""
        for known, routes in self._routes:
            if known is chain:
                return routes
        made = routes_of(chain, self.steps[chain.first : chain.first + len(chain.chain)])
        # replaced as a whole, as other threads may look through it; what one of them adds meanwhile is made again
        self._routes = ((chain, made), *self._routes[: ROUTES - 1])
        return made

    def dispatch(self, chain: PlannedChain, x: Array, output: Array | None = None) -> Dispatch:
        """The tasks of a chain on its input, the last output to be written into `output`."""
        return dispatch(chain, self.routes(chain), self.steps[chain.first + len(chain.chain) - 1], x, output)
