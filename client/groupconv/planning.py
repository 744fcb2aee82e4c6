"""Plans, asked for in the same way by the blocking and the awaiting client."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from groupconv import calls
from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Step
from groupconv.transport.exchange import Exchange

Answer = TypeVar("Answer")


class Planning(ABC, Generic[Answer]):
    """Asks a server how it would cut convolutions."""

    def plan(
        self,
        input_shape: Sequence[int],
        weight_shape: Sequence[int] | Sequence[Step],
        spec: ConvSpec | None = None,
        *,
        dtype: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
    ) -> Answer:
        """The plan of a convolution or of several steps, without running them.

        `print(plan)` shows tables, `plan.picture("plan.svg")` draws it.

        Args:
            input_shape: (N, C, *spatial).
            weight_shape: (M, C/g, *kernel); transposed: (C, M/g, *kernel). Or the steps as in `run`.
            spec: the parameters; None takes the defaults. Steps have their own.
            dtype: of input and weights; None takes that of the first step's kernel, or float32 with a shape.
            timeout: seconds, in place of the client's.
            allow_reordering: see `Client.run`.
            cut: see `Client.run`.

        Raises:
            InvalidArgumentError: the shapes do not fit, or another argument is invalid.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.

        Example:
            print(client.plan((1, 96, 27, 27), (256, 48, 5, 5), groupconv.ConvSpec(padding=2, groups=2)))
            client.plan((1, 96, 27, 27), [groupconv.Step(w1), groupconv.Step(w2)], cut="rows").picture("towers.svg")
        """
        exchange = calls.plan(input_shape, weight_shape, spec, dtype, allow_reordering=allow_reordering, cut=cut)
        return self._plan(exchange, timeout)

    def plan_steps(
        self,
        input_shape: Sequence[int],
        weight_shapes: Sequence[Sequence[int]],
        specs: Sequence[ConvSpec],
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
    ) -> Answer:
        """The plan of several steps by their shapes; arguments as in `plan`, one shape and one spec for each step."""
        exchange = calls.plan_steps(
            input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering, cut=cut
        )
        return self._plan(exchange, timeout)

    @abstractmethod
    def _plan(self, exchange: Exchange[Plan], timeout: float | None) -> Answer:
        """Run the exchange."""
