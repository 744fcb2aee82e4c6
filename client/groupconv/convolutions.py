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
        """A 1-D convolution: (N, C, L) * (M, C/g, K) -> (N, M, L'). Arguments and errors are those of `conv2d`."""
        return self._conv(1, x, weight, bias, options)

    def conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """A 2-D convolution: (N, C, H, W) * (M, C/g, K, K) -> (N, M, H', W').

        Names, defaults and formula are those of torch.nn.functional.conv2d: the kernel is not flipped. g is the number
        of groups. On each axis
        H' = floor((H + padding at both ends - dilation·(K - 1) - 1) / stride) + 1.

        Args:
            x: (N, C, H, W), or (C, H, W) for one sample.
            weight: (M, C/g, K, K); the two extents K may differ.
            bias: (M,) or None.
            options: see below.

        Options:
            stride: step of the kernel in elements, an int or (H, W); 1.
            padding: elements added around the input: an int, (H, W), ((low, high), (low, high)), "same" or "valid"; 0.
            dilation: distance between kernel taps in elements, an int or (H, W); 1.
            groups: g, a divisor of C and M; 1.
            padding_mode: "zeros", "reflect", "replicate" or "circular".
            activation: "relu", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", an `Activation`
                or None.
            flip_kernel: True for the convolution of mathematics.
            exact, math: see `ConvSpec`.
            out: array of the output's shape and dtype to fill.
            timeout: seconds, in place of the client's.
            allow_reordering, cut, layout: see `Client.run`.

        Returns:
            (N, M, H', W'), or (M, H', W') for one sample. A float input gives its own dtype: float16, bfloat16, float32
            or float64. An integer input gives int32 with an integer kernel, else float32 or float64.

        Raises:
            InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.

        Example:
            x = np.ones((1, 96, 27, 27), np.float32)
            w = np.ones((256, 48, 5, 5), np.float32)
            y = client.conv2d(x, w, padding=2, groups=2, activation="relu")  # (1, 256, 27, 27)
        """
        return self._conv(2, x, weight, bias, options)

    def conv3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """A 3-D convolution: (N, C, D, H, W) * (M, C/g, K, K, K) -> (N, M, D', H', W'). Otherwise as `conv2d`."""
        return self._conv(3, x, weight, bias, options)

    def conv_transpose1d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """A transposed 1-D convolution: (N, C, L) * (C, M/g, K) -> (N, M, L'). Otherwise as `conv_transpose2d`."""
        return self._conv(1, x, weight, bias, options, transposed=True)

    def conv_transpose2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """A transposed 2-D convolution (learned upsampling): (N, C, H, W) * (C, M/g, K, K) -> (N, M, H', W').

        Names and defaults are those of torch.nn.functional.conv_transpose2d, and so is the formula. On each axis
        H' = (H - 1)·stride - padding at both ends + dilation·(K - 1) + output_padding + 1.

        Args:
            x: (N, C, H, W), or (C, H, W) for one sample.
            weight: (C, M/g, K, K).
            bias: (M,) or None.
            options: those of `conv2d` without `padding_mode`; and `output_padding`, elements added at the end of each
                axis, less than the larger of stride and dilation.

        Example:
            x, w = np.ones((1, 8, 16, 16), np.float32), np.ones((8, 4, 3, 3), np.float32)
            y = client.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)  # (1, 4, 32, 32)
        """
        return self._conv(2, x, weight, bias, options, transposed=True)

    def conv_transpose3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Answer:
        """A transposed 3-D convolution: (N, C, D, H, W) * (C, M/g, K, K, K) -> (N, M, D', H', W').

        Otherwise as `conv_transpose2d`.
        """
        return self._conv(3, x, weight, bias, options, transposed=True)

    def pointwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """A 1×1 convolution, which mixes the channels of each pixel: (N, C, H, W) -> (N, M, H, W).

        Args:
            x: (N, C, H, W), or (C, H, W) for one sample.
            weight: (M, C) or (M, C, 1, 1). Larger kernels are an InvalidArgumentError.
            bias: (M,) or None.
            options: as in `conv2d`.

        Example:
            y = client.pointwise_conv2d(np.ones((1, 3, 8, 8), np.float32), np.full((1, 3), 1 / 3, np.float32))  # gray
        """
        return self._conv(2, x, pointwise(weight, 2), bias, options)

    def depthwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Answer:
        """A convolution of each channel by itself, which is a group for each: (N, C, H, W) -> (N, C·m, H', W').

        Args:
            x: (N, C, H, W), or (C, H, W) for one sample.
            weight: (C·m, 1, K, K), with m filters for each channel.
            bias: (C·m,) or None.
            options: as in `conv2d`, without groups.

        Example:
            x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((3, 1, 3, 3), np.float32)
            y = client.depthwise_conv2d(x, w, padding="same")  # (1, 3, 8, 8)
        """
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
            options: as in `conv2d`, without groups.

        Example:
            x, dw, pw = (np.ones(s, np.float32) for s in [(1, 3, 8, 8), (3, 1, 3, 3), (16, 3)])
            y = client.depthwise_separable_conv2d(x, dw, pw, padding=1)  # (1, 16, 8, 8)
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
            options: as in `conv2d`, without groups.

        Example:
            blur = np.float32([1, 2, 1]) / 4
            y = client.spatially_separable_conv2d(np.ones((1, 3, 8, 8), np.float32), blur, blur, padding="same")
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
        """Any convolution, in 1-D, 2-D or 3-D. The weight's axes say which; `spec` has all parameters.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample.
            weight: (M, C/g, *kernel); transposed: (C, M/g, *kernel).
            bias: (M,) or None.
            spec: the parameters; None takes the defaults.
            out: array of the output's shape and dtype to fill.
            timeout: seconds, in place of the client's.
            allow_reordering: see `Client.run`.
            cut: see `Client.run`.
            layout: see `Client.run`.

        Raises:
            InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.

        Example:
            spec = groupconv.ConvSpec(padding=1, groups=2)
            y = client.convolve(np.ones((1, 4, 9), np.float32), np.ones((6, 2, 3), np.float32), spec=spec)  # (1, 6, 9)
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
