"""Networks that Hypothesis draws: branches, residuals, concatenations, shuffles, pools."""

import numpy as np
from hypothesis import strategies as st
from networks import model, value
from onnx import ModelProto, helper

ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus")


class Drawing:
    """A network that is being drawn; every step gives the name and shape of the tensor it makes."""

    def __init__(self, draw):
        self.draw, self.nodes, self.weights = draw, [], {}
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def pick(self, *values):
        return self.draw(st.sampled_from(values))

    def weight(self, *shape, scale=1.0):
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, op, inputs, shape, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name, shape

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def convolution(self, x):
        name, (n, c, h, w) = x
        groups = self.pick(*(g for g in (1, 2, c) if c % g == 0))
        kernel, stride, dilation = self.pick(1, 2, 3, 5), self.pick(1, 1, 2), self.pick(1, 1, 2)
        extent = dilation * (kernel - 1) + 1
        auto = self.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER") if dilation == 1 else "NOTSET"
        pads = [self.draw(st.integers(0, extent // 2)) for _ in range(4)]
        m = groups * self.pick(1, 2, 3)
        if auto != "NOTSET":
            out, window = [-(-e // stride) for e in (h, w)], {"auto_pad": auto}
        else:
            out = [(e + pads[i] + pads[i + 2] - extent) // stride + 1 for i, e in enumerate((h, w))]
            window = {"pads": pads}
        if min(out) < 1:
            return x
        inputs = [name, self.weight(m, c // groups, kernel, kernel, scale=(kernel**2 * c / groups) ** -0.5)]
        if self.pick(True, False):
            inputs.append(self.weight(m))
        attributes = {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2, **window}
        return self.node("Conv", inputs, (n, m, *out), **attributes)

    def transposed(self, x):
        name, (n, c, h, w) = x
        groups = self.pick(*(g for g in (1, c) if c % g == 0))
        kernel, stride = self.pick(2, 3), self.pick(1, 2)
        pad, extra = self.pick(0, 1), self.pick(*range(stride))
        out = [(e - 1) * stride + kernel - 2 * pad + extra for e in (h, w)]
        if min(out) < 1 or max(out) > 24:
            return x
        weight = self.weight(c, 2, kernel, kernel, scale=0.3)
        attributes = {"group": groups, "strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [extra] * 2}
        return self.node("ConvTranspose", [name, weight], (n, 2 * groups, *out), **attributes)

    def normalization(self, x):
        name, shape = x
        c = shape[1]
        weights = [self.weight(c), self.weight(c)]
        match self.pick("batch", "instance", "group", "lrn", "affine"):
            case "batch":
                mean, variance = self.weight(c), self.constant(self.rng.random(c, np.float32) + 0.5)
                return self.node("BatchNormalization", [name, *weights, mean, variance], shape)
            case "instance":
                return self.node("InstanceNormalization", [name, *weights], shape)
            case "group":
                groups = self.pick(*(g for g in (1, 2, c) if c % g == 0))
                return self.node("GroupNormalization", [name, *weights], shape, num_groups=groups)
            case "lrn":
                return self.node("LRN", [name], shape, size=self.pick(1, 3, 5))
            case _:
                scaled = self.node("Mul", [name, self.weight(1, c, 1, 1)], shape)
                return self.node("Add", [scaled[0], self.weight(c, 1, 1)], shape)

    def activation(self, x):
        name, shape = x
        match self.pick("plain", "clip", "silu", "prelu", "gelu"):
            case "clip":
                bounds = [self.constant(np.float32(v)) for v in (-0.5, 0.8)]
                return self.node("Clip", [name, *bounds], shape)
            case "silu":
                gate = self.node("Sigmoid", [name], shape)
                return self.node("Mul", [name, gate[0]], shape)
            case "prelu":
                return self.node("PRelu", [name, self.weight(shape[1], 1, 1)], shape)
            case "gelu":
                return self.node("Gelu", [name], shape, approximate=self.pick("none", "tanh"))
            case _:
                return self.node(self.pick(*ACTIVATIONS), [name], shape)

    def pool(self, x):
        name, (n, c, h, w) = x
        kernel, stride = self.pick(2, 3), self.pick(1, 2)
        pad, ceil = self.pick(0, 1) if kernel == 3 else 0, self.pick(0, 1)
        rest = [e + 2 * pad - kernel for e in (h, w)]
        out = [(-(-r // stride) if ceil else r // stride) + 1 for r in rest]
        # a window that starts behind the map's end padding is left out
        out = [o - (ceil and (o - 1) * stride >= e + pad) for o, e in zip(out, (h, w), strict=True)]
        if min(rest) < 0:
            return x
        op = self.pick("MaxPool", "AveragePool", "LpPool")
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": ceil}
        if op == "AveragePool":
            attributes["count_include_pad"] = self.pick(0, 1)
        return self.node(op, [name], (n, c, *out), **attributes)

    def shuffle(self, x):
        name, (n, c, h, w) = x
        g = self.pick(*(g for g in (1, 2, 3, c) if c % g == 0))
        apart = self.node("Reshape", [name, self.constant([n, g, c // g, h, w])], (n, g, c // g, h, w))
        swapped = self.node("Transpose", [apart[0]], (n, c // g, g, h, w), perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [swapped[0], self.constant([n, c, h, w])], (n, c, h, w))

    def squeeze(self, x):
        name, (n, c, h, w) = x
        pooled = self.node("GlobalAveragePool", [name], (n, c, 1, 1))
        gate = self.node("Conv", [pooled[0], self.weight(c, c, 1, 1)], (n, c, 1, 1))
        gate = self.node("HardSigmoid", [gate[0]], (n, c, 1, 1))
        return self.node("Mul", [name, gate[0]], (n, c, h, w))

    def resize(self, x):
        name, (n, c, h, w) = x
        if max(h, w) > 12:
            return x
        mode = self.pick("nearest", "linear", "cubic")
        coordinates = self.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if mode == "nearest":
            attributes["nearest_mode"] = "floor"
        factor = self.pick(1, 2, 3)
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.node("Resize", [name, "", scales], (n, c, h * factor, w * factor), **attributes)

    def cut(self, x):
        name, (n, c, h, w) = x
        if c < 2:
            return x
        first = self.draw(st.integers(1, c - 1))
        bounds = [self.constant(np.array(v)) for v in ([0], [first], [1])]
        return self.node("Slice", [name, *bounds], (n, first, h, w))

    def pad(self, x):
        name, (n, c, h, w) = x
        mode = self.pick("constant", "reflect", "edge")
        if min(h, w) < 3:
            return x
        top, left, bottom, right = (self.draw(st.integers(0, 2)) for _ in range(4))
        pads = self.constant(np.array([0, 0, top, left, 0, 0, bottom, right]))
        return self.node("Pad", [name, pads], (n, c, h + top + bottom, w + left + right), mode=mode)

    def step(self, x):
        return self.draw(st.sampled_from(STEPS))(self, x)

    def block(self, x):
        """Some steps; then perhaps a branch that is added, multiplied or concatenated."""
        for _ in range(self.draw(st.integers(1, 3))):
            x = self.step(x)
        match self.pick("straight", "residual", "residual", "concat", "product"):
            case "straight":
                return x
            case "residual" | "product" as kind:
                (name, (n, c, h, w)) = x
                inner = self.node("Conv", [name, self.weight(c, c, 3, 3, scale=0.2)], x[1], pads=[1] * 4)
                if self.pick(True, False):
                    inner = self.activation(inner)
                return self.node("Add" if kind == "residual" else "Mul", [*self.either(name, inner[0])], x[1])
            case _:
                (name, (n, c, h, w)) = x
                m = self.pick(1, 3, 8)
                inner = self.node("Conv", [name, self.weight(m, c, 1, 1)], (n, m, h, w))
                return self.node("Concat", [name, inner[0]], (n, c + m, h, w), axis=1)

    def either(self, a, b):
        return (a, b) if self.pick(True, False) else (b, a)


STEPS = (
    *(Drawing.convolution,) * 3, *(Drawing.activation,) * 2, Drawing.pool, Drawing.normalization, Drawing.shuffle,
    Drawing.squeeze, Drawing.resize, Drawing.cut, Drawing.pad, Drawing.transposed,
)  # fmt: skip


@st.composite
def networks(draw, blocks=4, kind=Drawing) -> tuple[ModelProto, tuple[int, ...]]:
    """A model with the input `x` and the output `y`, and the input's shape."""
    drawing = kind(draw)
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 8)), draw(st.integers(4, 14)), draw(st.integers(4, 14)))
    x = ("x", shape)
    for _ in range(draw(st.integers(1, blocks))):
        x = drawing.block(x)
    if draw(st.booleans()) and np.prod(x[1]) <= 4096:
        features = int(np.prod(x[1][1:]))
        flat = drawing.node("Flatten", [x[0]], (shape[0], features))
        product = drawing.node("Gemm", [flat[0], drawing.weight(features, 5, scale=features**-0.5)], (shape[0], 5))
        x = drawing.node("Softmax", [product[0]], (shape[0], 5))
    drawing.nodes.append(helper.make_node("Identity", [x[0]], ["y"]))
    return model(drawing.nodes, [value("x", shape)], [value("y", x[1])], drawing.weights), shape
