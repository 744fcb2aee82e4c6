"""Fully convolutional networks that tests stream: drawn at random, and some by name.

Weights and inputs are small integers and every sum stays below 2**24, so that float32 is exact in any order: a streamed
output must equal the whole one bit for bit, whatever kernels a runtime chooses for either.
"""

import numpy as np
from hypothesis import strategies as st
from networks import model, value
from onnx import TensorProto, helper

MODES = [
    ("nearest", "asymmetric", "floor"),
    ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"),
    ("nearest", "pytorch_half_pixel", "ceil"),
    ("linear", "half_pixel", ""),
    ("linear", "asymmetric", ""),
    ("cubic", "half_pixel", ""),
]


class Builder:
    """A network that grows node by node.

    Attributes:
        last: name of the newest tensor.
        channels: its channels.
    """

    def __init__(self, channels=2, seed=0):
        self.nodes, self.weights, self.last, self.channels = [], {}, "x", channels
        self._inputs = [value("x", ["N", channels, None, None])]
        self._rng = np.random.default_rng(seed)

    def add(self, op, *others, inputs=None, **attributes):
        """A node on the newest tensor, and what keeps its values small integers."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs or [self.last, *others], [name], name, **attributes))
        self.last = name
        return name

    def constant(self, array, name=None):
        name = name or f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def small(self):
        """Round down and clip."""
        self.add("Floor")
        self.add("Clip", self.constant(np.float32(-8)), self.constant(np.float32(8)))

    def convolve(self, channels, kernel, *, transposed=False, groups=1, **attributes):
        shape = (self.channels, channels // groups) if transposed else (channels, self.channels // groups)
        weight = self._rng.integers(-1, 2, (*shape, *kernel)).astype(np.float32)
        op = "ConvTranspose" if transposed else "Conv"
        self.add(op, self.constant(weight), group=groups, **attributes)
        self.channels = channels
        self.small()

    def model(self, *outputs, dtype=TensorProto.FLOAT):
        made = outputs or (self.last,)
        for info in self._inputs:
            info.type.tensor_type.elem_type = dtype
        return model(self.nodes, self._inputs, [value(name, [None] * 4) for name in made], self.weights)


def image(shape, seed=1):
    """Small integers as float32."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def unet(levels=3, base=4, crop=False):
    """A U-Net: pools, transposed convolutions, skips; `crop` takes odd extents, as its skips are cut to fit."""
    net = Builder(2)
    skips = []
    for level in range(levels):
        net.convolve(base << level, (3, 3), pads=[1] * 4)
        net.convolve(base << level, (3, 3), pads=[1] * 4)
        if level < levels - 1:
            skips.append((net.last, net.channels))
            net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    for name, channels in reversed(skips):
        net.convolve(channels, (2, 2), transposed=True, strides=[2, 2])
        up = net.last
        if crop:
            shape = net.add("Shape", inputs=[up], start=2)
            ends = net.add("Identity", inputs=[shape])
            zeros, axes = net.constant(np.array([0, 0])), net.constant(np.array([2, 3]))
            name = net.add("Slice", inputs=[name, zeros, ends, axes])
        net.add("Concat", inputs=[name, up], axis=1)
        net.channels = 2 * channels
        net.convolve(channels, (3, 3), pads=[1] * 4)
    net.convolve(1, (1, 1))
    return net.model()


@st.composite
def networks(draw):
    """A builder with two to six layers of any kind, and perhaps an output from its middle."""
    net = Builder(draw(st.sampled_from([1, 2, 4])), draw(st.integers(0, 99)))
    kinds = ["conv", "conv", "auto", "pool", "transposed", "resize", "pad", "crop", "residual", "shuffle", "hourglass"]
    middle = []
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=6)):
        LAYERS[kind](draw, net)
        middle += [] if net.last == "x" else [net.last]
    net.add("Neg")
    outputs = [net.last]
    if middle and draw(st.booleans()):
        outputs.append(draw(st.sampled_from(middle)))
    return net.model(*dict.fromkeys(outputs))


def _pairs(draw, low, high):
    return [draw(st.integers(low, high)) for _ in range(2)]


def _conv(draw, net):
    kernel, groups = _pairs(draw, 1, 4), draw(st.sampled_from([1, net.channels]))
    net.convolve(
        net.channels * draw(st.sampled_from([1, 2])) if net.channels < 5 else net.channels,
        kernel,
        groups=groups,
        strides=_pairs(draw, 1, 3),
        dilations=_pairs(draw, 1, 2),
        pads=[draw(st.integers(0, 3)) for _ in range(4)],
    )


def _auto(draw, net):
    auto = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    net.convolve(net.channels, _pairs(draw, 1, 4), strides=_pairs(draw, 1, 3), auto_pad=auto)


def _pool(draw, net):
    kernel = _pairs(draw, 2, 4)
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    more = {"count_include_pad": draw(st.integers(0, 1))} if op == "AveragePool" else {}
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    ceil = draw(st.integers(0, 1))
    net.add(op, kernel_shape=kernel, strides=_pairs(draw, 1, 3), pads=pads, ceil_mode=ceil, **more)
    net.small()


def _transposed(draw, net):
    strides, kernel = _pairs(draw, 1, 3), _pairs(draw, 1, 4)
    net.convolve(
        net.channels,
        kernel,
        transposed=True,
        groups=draw(st.sampled_from([1, net.channels])),
        strides=strides,
        dilations=_pairs(draw, 1, 2),
        pads=[draw(st.integers(0, 1)) for _ in range(4)],
        output_padding=[draw(st.integers(0, s - 1)) for s in strides],
    )


def _resize(draw, net):
    mode, coordinates, nearest = draw(st.sampled_from(MODES))
    scale = draw(st.sampled_from([2.0, 4.0, 0.5, 1.5, 3.0] if mode == "nearest" else [2.0, 4.0, 0.5]))
    scales = net.constant(np.array([1, 1, scale, scale], np.float32))
    more = {"nearest_mode": nearest} if nearest else {}
    inputs = [net.last, "", scales]
    net.add("Resize", inputs=inputs, mode=mode, coordinate_transformation_mode=coordinates, **more)
    net.small()


def _pad(draw, net):
    pads = [0, 0, *_pairs(draw, -1, 3), 0, 0, *_pairs(draw, -1, 3)]
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    if mode != "constant":
        pads = [max(0, p) for p in pads]
    net.add("Pad", net.constant(np.array(pads)), mode=mode)


def _crop(draw, net):
    starts, ends = _pairs(draw, 0, 3), [-draw(st.integers(1, 3)) for _ in range(2)]
    net.add("Slice", *(net.constant(np.array(v)) for v in (starts, ends, [2, 3], _pairs(draw, 1, 2))))


def _residual(draw, net):
    before = net.last
    net.convolve(net.channels, (3, 3), pads=[1] * 4)
    net.add(draw(st.sampled_from(["Add", "Max", "Sub"])), before)
    net.small()


def _shuffle(draw, net):
    if draw(st.booleans()):
        net.channels *= 4
        net.add("SpaceToDepth", blocksize=2)
    elif net.channels % 4 == 0:
        net.channels //= 4
        net.add("DepthToSpace", blocksize=2, mode=draw(st.sampled_from(["DCR", "CRD"])))


def _hourglass(draw, net):
    before, channels = net.last, net.channels
    net.convolve(channels, (3, 3), strides=[2, 2], pads=[1] * 4)
    net.convolve(channels, (2, 2), transposed=True, strides=[2, 2])
    net.add("Concat", inputs=[net.last, before], axis=1)
    net.channels = 2 * channels
    net.convolve(channels, (1, 1))


LAYERS = {
    "conv": _conv,
    "auto": _auto,
    "pool": _pool,
    "transposed": _transposed,
    "resize": _resize,
    "pad": _pad,
    "crop": _crop,
    "residual": _residual,
    "shuffle": _shuffle,
    "hourglass": _hourglass,
}
