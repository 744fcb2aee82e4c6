"""The convolution functions, written once for the blocking and the awaiting client.

Each makes steps of its arguments and passes them to `_answer`, in which the two clients differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from groupconv.arguments import as_array
from groupconv.convolution.spec import Activation, ActivationKind, ConvSpec
from groupconv.convolution.steps import Step
from groupconv.errors import InvalidArgumentError
from groupconv.layouts import Layout, is_channels_last
from groupconv.options import CallOptions, Conv, ConvTranspose, spec_or_default, split
from groupconv.separable import depthwise_separable_steps, pointwise, spatially_separable_steps

Answer = TypeVar("Answer")


class Convolutions(ABC, Generic[Answer]):
    """Every kind of convolution by its name, with the names and defaults of torch.nn.functional.

    Arrays are NumPy arrays, anything with `__array__` or DLPack, or nested lists. An input may lack the batch axis.
    Then the output lacks it, too. The output is a NumPy array, or `out`, which may be on a GPU. Kernels and biases are
    converted to the dtype of a float input (docs/convolution.md has the dtypes).

    Keyword arguments of every function: stride, padding, dilation, groups, padding_mode, activation, flip_kernel,
    exact and math, and output_padding for transposed convolutions, see `ConvSpec`; out, an array of the output's shape
    and dtype to fill; timeout in seconds, in place of the client's; allow_reordering, cut and layout, see `Client.run`.

    Raises:
        InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
        GroupconvError: the server's answer; the subclass stands for the gRPC status.
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
        """(N, C, H, W) * (C, M/g, K, K) -> (N, M, H', W').

        Example:
            y = client.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)  # twice the height and width
        """
        return self._conv(2, x, weight, bias, options, transposed=True)

    def conv_transpose3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """(N, C, D, H, W) * (C, M/g, K, K, K) -> (N, M, D', H', W')."""
        return self._conv(3, x, weight, bias, options, transposed=True)

    def pointwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """1×1: (N, C, H, W) with a weight (M, C) or (M, C, 1, 1) -> (N, M, H, W). Larger kernels are refused."""
        return self._conv(2, x, pointwise(weight, 2), bias, options)

    def depthwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """One group per channel: (N, C, H, W) with a weight (C·multiplier, 1, K, K) -> (N, C·multiplier, H', W')."""
        return self._conv(2, x, weight, bias, {"groups": _channels(x, options), **options})

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
        """A depthwise convolution, then a pointwise one: (N, C, H, W) -> (N, M, H', W').

        Args:
            x: (N, C, H, W).
            depthwise_weight: (C, 1, K, K), applied with the stride, padding and dilation.
            pointwise_weight: (M, C) or (M, C, 1, 1), applied with the activation.
            bias: (M,) of the pointwise convolution.
            depthwise_bias: (C,) of the depthwise convolution.
            depthwise_activation: of the depthwise convolution.
            options: as in conv2d, without groups.
        """
        spec, call = split(options, without=("groups",))
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
        """The rank-1 kernel column·rowᵀ on every channel, as K×1 then 1×K: (N, C, H, W) -> (N, C, H', W').

        Args:
            x: (N, C, H, W).
            column: (K,) for all channels, or (C, K) for each.
            row: (K,) for all channels, or (C, K) for each.
            bias: (C,).
            options: as in conv2d, without groups.
        """
        spec, call = split(options, without=("groups",))
        return self._answer(x, spatially_separable_steps(column, row, bias, spec, _channels(x, options)), call)

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
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Answer:
        """Any convolution: the rank is the weight's, all parameters are in `spec`.

        Args:
            x: (N, C, *spatial).
            weight: (M, C/g, *kernel); transposed: (C, M/g, *kernel).
            bias: (M,) or None.
            spec: the parameters; None takes the defaults.
            out: array of the output's shape and dtype to fill.
            timeout: seconds, in place of the client's.
            allow_reordering: see `Client.run`.
            cut: see `Client.run`.
            layout: see `Client.run`.
        """
        call = CallOptions(out=out, timeout=timeout, allow_reordering=allow_reordering, cut=cut, layout=layout)
        return self._answer(x, [Step(weight, bias, spec_or_default(spec))], call)

    @abstractmethod
    def _answer(self, x: Any, steps: Sequence[Step], call: CallOptions) -> Answer:
        """Run the steps and return the output."""

    def _conv(
        self, rank: int, x: Any, weight: Any, bias: Any, options: Mapping[str, Any], *, transposed: bool = False
    ) -> Answer:
        spec, call = split(options, transposed=transposed)
        kernel = as_array(weight, "weight")
        if kernel.ndim != rank + 2:
            raise InvalidArgumentError("weight", f"{rank + 2} dimensions for {rank}-D", kernel.shape)
        return self._answer(x, [Step(kernel, bias, spec)], call)


def _channels(x: Any, options: Mapping[str, Any]) -> int:
    """C of (N, C, H, W) or (C, H, W), with channels last of (N, H, W, C); 1 for other shapes, which are refused."""
    shape = x.shape if hasattr(x, "shape") else as_array(x, "input").shape
    return int(shape[-1 if is_channels_last(options.get("layout")) else -3]) if len(shape) >= 3 else 1
