"""The convolution functions, written once for the blocking and the awaiting client.

Each makes steps of its arguments and hands them to `_answer`, which is what the two clients differ in.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from groupconv.arguments import as_array
from groupconv.convolution.spec import Activation, ActivationKind, ConvSpec
from groupconv.convolution.steps import Step
from groupconv.errors import InvalidArgumentError
from groupconv.options import CallOptions, Conv, ConvTranspose, split
from groupconv.separable import depthwise_separable_steps, pointwise, spatially_separable_steps

Answer = TypeVar("Answer")


class Convolutions(ABC, Generic[Answer]):
    """Every variant by its name, with the names and defaults of torch.nn.functional.

    Keywords of every function: stride, padding, dilation, groups, padding_mode, activation, flip_kernel, exact as in
    `ConvSpec` (transposed: output_padding too); out (an array to fill), timeout (seconds, for this call),
    allow_reordering (see `run`).
    Arrays are anything with `__array__` or DLPack; a missing batch axis is added and taken away again. The answer is a
    NumPy array, or `out` itself, which may be on a GPU: with shared memory arrays there are not copied.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
        GroupconvError: the subclass of the status the server answered with.
    """

    def conv1d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """(N, C, L) * (M, C/g, K) -> (N, M, L')."""
        return self._conv(1, x, weight, bias, options)

    def conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """(N, C, H, W) * (M, C/g, K, K) -> (N, M, H', W').

        Example:
            y = client.conv2d(x, w, bias, stride=1, padding=2, groups=2, activation="relu")
        """
        return self._conv(2, x, weight, bias, options)

    def conv3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """(N, C, D, H, W) * (M, C/g, K, K, K) -> (N, M, D', H', W')."""
        return self._conv(3, x, weight, bias, options)

    def conv_transpose1d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """(N, C, L) * (C, M/g, K) -> (N, M, L')."""
        return self._conv(1, x, weight, bias, options, transposed=True)

    def conv_transpose2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """(N, C, H, W) * (C, M/g, K, K) -> (N, M, H', W')."""
        return self._conv(2, x, weight, bias, options, transposed=True)

    def conv_transpose3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """(N, C, D, H, W) * (C, M/g, K, K, K) -> (N, M, D', H', W')."""
        return self._conv(3, x, weight, bias, options, transposed=True)

    def pointwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """1×1: (N, C, H, W) with a weight (M, C) or (M, C, 1, 1) -> (N, M, H, W)."""
        return self._conv(2, x, pointwise(weight, 2), bias, options)

    def depthwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """One group per channel: (N, C, H, W) with a weight (C·multiplier, 1, K, K)."""
        return self._conv(2, x, weight, bias, {"groups": _channels(x), **options})

    def depthwise_separable_conv2d(
        self,
        x: Any,
        depthwise_weight: Any,
        pointwise_weight: Any,
        bias: Any = None,
        *,
        depthwise_bias: Any = None,
        depthwise_activation: ActivationKind | Activation | None = None,
        **options: Unpack[Conv],
    ) -> Answer:
        """Depthwise (C, 1, K, K) with the stride, padding and dilation, then pointwise (M, C) with the activation."""
        spec, call = split(options)
        steps = depthwise_separable_steps(
            depthwise_weight,
            pointwise_weight,
            bias,
            spec,
            depthwise_bias=depthwise_bias,
            depthwise_activation=depthwise_activation,
        )
        return self._answer(x, steps, call)

    def spatially_separable_conv2d(
        self, x: Any, column: Any, row: Any, bias: Any = None, **options: Unpack[Conv]
    ) -> Answer:
        """The rank-1 kernel column·rowᵀ on every channel, as K×1 then 1×K.

        Args:
            x: (N, C, H, W).
            column: (K,) for every channel, or (C, K).
            row: likewise.
            bias: (C,).
            options: as in conv2d, without groups.
        """
        spec, call = split(options)
        return self._answer(x, spatially_separable_steps(column, row, bias, spec, _channels(x)), call)

    def convolve(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        spec: ConvSpec | None = None,
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Answer:
        """The general form: the rank is the weight's, everything else is in `spec`."""
        call = CallOptions(out=out, timeout=timeout, allow_reordering=allow_reordering)
        return self._answer(x, [Step(weight, bias, spec or ConvSpec())], call)

    @abstractmethod
    def _answer(self, x: Any, steps: Sequence[Step], call: CallOptions) -> Answer:
        """Run the steps and give the output."""

    def _conv(
        self, rank: int, x: Any, weight: Any, bias: Any, options: Mapping[str, Any], *, transposed: bool = False
    ) -> Answer:
        spec, call = split({**options, "transposed": transposed})
        kernel = as_array(weight)
        if kernel.ndim != rank + 2:
            raise InvalidArgumentError("weight", f"{rank + 2} dimensions for {rank}-D", kernel.shape)
        return self._answer(x, [Step(kernel, bias, spec)], call)


def _channels(x: Any) -> int:
    """C of (N, C, H, W) or (C, H, W); what has no channels is left to `prepare` to refuse."""
    shape = x.shape if hasattr(x, "shape") else as_array(x).shape
    return int(shape[-3]) if len(shape) >= 3 else 1
