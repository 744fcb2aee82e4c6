"""The cases of the demo: one for each variant, with results that can be looked at."""

from collections.abc import Iterator

import numpy as np

from groupconv.convolution.kernels import gaussian, kernel_named
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Step
from groupconv.separable import depthwise_separable_steps, pointwise, spatially_separable_steps
from groupconv_server.demo.case import DemoCase

SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], dtype=np.float32)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)[None, :, None, None]
"""Luma of the three colors, by ITU-R BT.601."""
BILINEAR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 16
"""With it, a transposed convolution of stride 2 doubles an image by linear interpolation."""


def photo_cases(photo: Array) -> Iterator[DemoCase]:
    """All variants on a photograph (1, 3, H, W) of uint8."""
    x = photo.astype(np.float32) / 255
    sobel = np.stack([kernel_named("sobel-x"), kernel_named("sobel-y")])
    yield DemoCase("standard 9×9, Gabor", x, [Step(gabor(6), spec=ConvSpec(padding="same", activation="relu"))])
    yield DemoCase("pointwise 1×1, sepia", x, [Step(pointwise(SEPIA, 2))])
    yield DemoCase("grouped g=2, two exposures", np.concatenate([x, x**2], axis=1), [_luma(groups=2)])
    yield DemoCase("depthwise ×2, Sobel", x, [_depthwise(sobel, padding=1, padding_mode="replicate")])
    blur = np.broadcast_to(np.outer(gaussian(2, truncate=3), gaussian(2, truncate=3)), (3, 1, 13, 13))
    separable = depthwise_separable_steps(blur, SEPIA, None, ConvSpec(padding=6, padding_mode="reflect"))
    yield DemoCase("depthwise separable", x, separable)
    taps = gaussian(6, truncate=3)
    spatial = ConvSpec(padding=len(taps) // 2, padding_mode="reflect")
    yield DemoCase("spatially separable, Gauss σ=6", x, spatially_separable_steps(taps, taps, None, spatial, 3))
    yield DemoCase("dilated d=6, Laplace", x, [_depthwise(kernel_named("laplacian"), padding=6, dilation=6)])
    yield DemoCase(
        "strided s=(2, 3), uneven padding",
        x,
        [
            _depthwise(
                np.full((5, 5), 0.04, np.float32), stride=(2, 3), padding=((2, 1), (0, 4)), padding_mode="circular"
            )
        ],
    )
    small = np.ascontiguousarray(x[:, :, ::2, ::2])
    yield DemoCase("transposed s=2, bilinear ×2", small, [_depthwise(BILINEAR, stride=2, padding=1, transposed=True)])
    yield DemoCase(
        "transposed, output padding",
        small,
        [_depthwise(np.full((3, 3), 0.25, np.float32), stride=2, padding=1, output_padding=1, transposed=True)],
    )
    yield DemoCase(
        "grouped dilated transposed",
        small,
        [_depthwise(BILINEAR, stride=2, padding=2, dilation=(3, 2), transposed=True, activation="silu")],
    )
    emboss = _depthwise(kernel_named("emboss"), padding="same", flip_kernel=True, activation="sigmoid")
    yield DemoCase("true convolution, emboss", x, [emboss])
    yield DemoCase(
        "uint8 × int8 → int32, sharpen", photo, [_depthwise(kernel_named("sharpen").astype(np.int8), padding=1)]
    )
    for dtype in ("float16", "bfloat16", "float64"):
        weight = kernel_named("gaussian:1").astype(x.dtype)
        yield DemoCase(f"{dtype}, Gauss σ=1", x, [_depthwise(weight, padding="same_lower")]).cast(dtype)
    line = np.ascontiguousarray(x[:, :, x.shape[2] // 2])
    yield DemoCase(
        "1-D, depthwise separable",
        line,
        depthwise_separable_steps(
            np.broadcast_to(taps, (3, 1, len(taps))),
            SEPIA,
            np.zeros(3, np.float32),
            ConvSpec(padding="same"),
        ),
    )
    frames = np.stack([np.roll(small[:, :, :96, :96], 3 * t, axis=3) for t in range(8)], axis=2)
    yield DemoCase(
        "3-D, motion blur g=3",
        frames,
        [Step(np.full((3, 1, 5, 3, 3), 1 / 45, np.float32), spec=ConvSpec(padding=(2, 1, 1), groups=3))],
    )
    batch = np.concatenate([small, small[:, :, ::-1], small[:, :, :, ::-1]])
    bias = np.array([-0.1, 0, 0.1], dtype=np.float32)
    yield DemoCase("batch of 3, bias and PReLU", batch, [Step(gabor(3), bias, ConvSpec(padding=4, activation="prelu"))])


def alexnet_cases(photo: Array, weights_seed: int = 0) -> Iterator[DemoCase]:
    """AlexNet's convolutions with ReLU on the photograph. The groups of conv2, conv4 and conv5 are its two towers.

    The shapes are the published ones, the weights are random (Kaiming). 3/2 max pooling runs here, between requests.
    conv4 and conv5 are one request, since their towers are independent. The reference computes the input of each case,
    so errors do not add up.
    """
    rng = np.random.default_rng(weights_seed)
    x = crop(photo, 227).astype(np.float32) / 255 - 0.5
    conv = {
        "conv1": ((96, 3, 11, 11), ConvSpec(stride=4, activation="relu")),
        "conv2": ((256, 48, 5, 5), ConvSpec(padding=2, groups=2, activation="relu")),
        "conv3": ((384, 256, 3, 3), ConvSpec(padding=1, activation="relu")),
        "conv4": ((384, 192, 3, 3), ConvSpec(padding=1, groups=2, activation="relu")),
        "conv5": ((256, 192, 3, 3), ConvSpec(padding=1, groups=2, activation="relu")),
    }
    for names, pooled in ((["conv1"], True), (["conv2"], True), (["conv3"], False), (["conv4", "conv5"], True)):
        steps = []
        for name in names:
            shape, spec = conv[name]
            weight = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
            steps.append(Step(weight, np.zeros(shape[0], np.float32), spec))
        groups = steps[0].spec.groups
        yield (case := DemoCase(f"AlexNet {'+'.join(names)}, g={groups}", x, steps))
        x = case.reference().astype(np.float32)
        x = max_pool(x) if pooled else x


def gabor(orientations: int, size: int = 9) -> Array:
    """Gabor filters on luminance, (orientations, 3, size, size) float32. Source: Gabor (1946), Daugman (1985)."""
    r = np.arange(size) - size // 2
    v, u = np.meshgrid(r, r, indexing="ij")
    filters = []
    for angle in np.arange(orientations) * np.pi / orientations:
        along = u * np.cos(angle) + v * np.sin(angle)
        wave = np.cos(2 * np.pi * along / 5) * np.exp(-(u**2 + v**2) / (2 * 2.5**2))
        filters.append(wave - wave.mean())
    weights: Array = np.stack(filters).astype(np.float32)[:, None] * LUMA
    return weights


def crop(photo: Array, size: int) -> Array:
    """The center of (1, 3, H, W), subsampled and cut to size × size."""
    step = max(1, min(photo.shape[2:]) // size)
    small = photo[:, :, ::step, ::step]
    grow = [max(0, size - e) for e in small.shape[2:]]
    small = np.pad(small, ((0, 0), (0, 0), (0, grow[0]), (0, grow[1])), mode="edge")
    top, left = ((e - size) // 2 for e in small.shape[2:])
    return np.ascontiguousarray(small[:, :, top : top + size, left : left + size])


def max_pool(x: Array, size: int = 3, stride: int = 2) -> Array:
    """Max pooling of the last two axes."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    pooled: Array = windows[:, :, ::stride, ::stride].max(axis=(4, 5))
    return pooled


def _depthwise(kernel: Array, **spec: object) -> Step:
    """Kernels (K, K) or (multiplier, K, K) on each of the three colors."""
    filters = kernel.reshape(-1, *kernel.shape[-2:])
    weight = np.tile(filters, (3, 1, 1))[:, None]
    if spec.get("transposed"):
        weight = weight.reshape(3, -1, *filters.shape[1:])
    return Step(weight, spec=ConvSpec(groups=3, **spec))  # type: ignore[arg-type]


def _luma(groups: int) -> Step:
    blur = np.outer(gaussian(1, truncate=3), gaussian(1, truncate=3))
    weight = LUMA * blur
    return Step(np.tile(weight, (groups, 1, 1, 1)), spec=ConvSpec(padding="same", groups=groups))
