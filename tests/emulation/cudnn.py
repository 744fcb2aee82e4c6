"""The names of nvidia-cudnn-frontend that the engine uses; a graph computes with the float64 reference.

Which graphs it refuses is what cuDNN 9.28 says for an H100 (bench/cudnn_plans.py asks it without a device): it fuses
bias and any activation of 16-bit floats and TF32; of true float32 only a bias, ReLU, sigmoid and tanh.

It holds the graph to what cuDNN asks for: tensors of at least four dimensions, a result whose extents and strides
were set, plans built before they are run, a handle told its stream.
"""

import ctypes
from enum import Enum, auto
from typing import Any

import ml_dtypes
import numpy as np

from emulation.cublas import tf32
from emulation.streams import current
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.spec import Activation
from groupconv_worker import reference


class cudnnGraphNotSupportedError(Exception):  # noqa: N801 - the library's name
    pass


class data_type(Enum):  # noqa: N801
    FLOAT = np.float32
    HALF = np.float16
    BFLOAT16 = ml_dtypes.bfloat16


class heur_mode(Enum):  # noqa: N801
    A = auto()
    FALLBACK = auto()


class numerical_note(Enum):  # noqa: N801
    TENSOR_CORE = auto()
    DOWN_CONVERT_INPUTS = auto()
    NONDETERMINISTIC = auto()
    FFT = auto()
    WINOGRAD = auto()
    WINOGRAD_TILE_4x4 = auto()
    WINOGRAD_TILE_6x6 = auto()
    WINOGRAD_TILE_13x13 = auto()


REFUSE = {"all": False, "fused": False}
NAN = {"kept": True}
"""Whether ReLU keeps a NaN. cuDNN's documentation does not say."""
BUILT: list["pygraph"] = []


def backend_version_string() -> str:
    return "9.0.0"


def create_handle() -> dict[str, Any]:
    return {"stream": -1, "captured": None}


def set_stream(*, handle: dict[str, Any], stream: int) -> None:
    handle["stream"] = stream


class _Tensor:
    def __init__(self, dim: Any = (), stride: Any = (), kind: data_type | None = None) -> None:
        self.dim, self.stride, self.kind, self.is_output = tuple(dim), tuple(stride), kind, False
        assert not dim or len(dim) >= 4, "cuDNN convolves two or three axes"

    def set_dim(self, dim: list[int]) -> "_Tensor":
        self.dim = tuple(dim)
        return self

    def set_stride(self, stride: list[int]) -> "_Tensor":
        self.stride = tuple(stride)
        return self

    def set_output(self, value: bool) -> "_Tensor":
        self.is_output = value
        return self

    def set_data_type(self, kind: data_type) -> "_Tensor":
        self.kind = kind
        return self

    def view(self, address: int) -> np.ndarray:
        """The memory there as this tensor describes it."""
        kind = np.dtype(self.kind.value)
        raw = (ctypes.c_uint8 * (int(np.prod(self.dim)) * kind.itemsize)).from_address(address)
        memory = np.frombuffer(raw, dtype=kind)
        strides = [s * memory.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(memory, self.dim, strides)


class pygraph:  # noqa: N801
    def __init__(self, *, handle: Any, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any) -> None:
        assert compute_data_type is data_type.FLOAT
        self.deselected: set[numerical_note] = set()
        self._steps: list[str] = []
        BUILT.append(self)

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: data_type) -> _Tensor:
        return _Tensor(dim, stride, data_type)

    def conv_fprop(self, *, image: _Tensor, weight: _Tensor, **window: list[int]) -> _Tensor:
        return self._node(image, weight, window, transposed=False)

    def conv_dgrad(self, *, loss: _Tensor, filter: _Tensor, **window: list[int]) -> _Tensor:  # noqa: A002 - the library's
        return self._node(loss, filter, window, transposed=True)

    def _node(self, x: _Tensor, w: _Tensor, window: dict[str, list[int]], *, transposed: bool) -> _Tensor:
        self._x, self._w, self._window, self._transposed, self._y = x, w, window, transposed, _Tensor()
        self._bias: _Tensor | None = None
        self._activation: Activation | None = None
        return self._y

    def bias(self, *, input: _Tensor, bias: _Tensor) -> _Tensor:  # noqa: A002 - the library's
        assert input is self._y
        assert bias.dim == (1, input.dim[1], *(1,) * (len(input.dim) - 2))
        self._bias = bias
        return self._then(input)

    def relu(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("relu"))

    def leaky_relu(self, *, input: _Tensor, negative_slope: float) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("leaky_relu", (negative_slope,)))

    def sigmoid(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("sigmoid"))

    def tanh(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("tanh"))

    def swish(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("silu"))

    def gelu(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("gelu"))

    def gelu_approx_tanh(self, *, input: _Tensor) -> _Tensor:  # noqa: A002
        return self._activated(input, Activation("gelu_tanh"))

    def _activated(self, y: _Tensor, activation: Activation) -> _Tensor:
        assert y is self._y
        self._activation = activation
        return self._then(y)

    def _then(self, y: _Tensor) -> _Tensor:
        assert y.dim, "cuDNN cannot infer the extents of a dgrad"
        assert not y.is_output, "only the last tensor is written"
        self._y = _Tensor(y.dim, y.stride)
        return self._y

    @property
    def fused(self) -> bool:
        return self._bias is not None or self._activation is not None

    def validate(self) -> None:
        assert self._y.dim, "cuDNN cannot infer the extents of a dgrad"
        assert self._y.is_output

    def build_operation_graph(self) -> None:
        self._steps.append("graph")

    def create_execution_plans(self, modes: list[heur_mode]) -> None:
        assert self._steps == ["graph"]
        assert modes
        rounds = self._x.kind is not data_type.FLOAT or self._y.stride[1] == 1  # float32 has channels last if it rounds
        known = rounds or self._activation is None or self._activation.kind in ("relu", "sigmoid", "tanh")
        if self.fused and (REFUSE["fused"] or not known):
            raise cudnnGraphNotSupportedError("No valid engine configs")
        self._steps.append("plans")

    def deselect_numeric_notes(self, notes: list[numerical_note]) -> None:
        assert self._steps[-1] == "plans"
        self.deselected |= set(notes)

    def deselect_workspace_greater_than(self, size: int) -> None:
        self.workspace_limit = size

    def check_support(self) -> None:
        if REFUSE["all"]:
            raise cudnnGraphNotSupportedError("no engine")
        self._steps.append("checked")

    def build_plans(self) -> None:
        assert self._steps[-1] == "checked"
        self._steps.append("built")

    def get_workspace_size(self) -> int:
        return 64

    def get_execution_plan_count(self) -> int:
        return 4

    def build_plan_at_index(self, index: int) -> None:
        if index == 2:
            raise cudnnGraphNotSupportedError("no such kernel")
        self._steps.append(f"plan {index}")

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return 64 if index else 2**40

    def execute_plan_at_index(
        self, tensors: dict[_Tensor, int], workspace: int, index: int, *, handle: dict[str, Any]
    ) -> None:
        assert f"plan {index}" in self._steps
        self._execute(tensors, workspace, handle)

    def execute(self, tensors: dict[_Tensor, int], workspace: int, *, handle: dict[str, Any]) -> None:
        assert self._steps[-1] == "built", "another plan was selected"
        self._execute(tensors, workspace, handle)

    def _execute(self, tensors: dict[_Tensor, int], workspace: int, handle: dict[str, Any]) -> None:
        assert handle["stream"] == current().ptr, "the handle was not told the stream"
        captured = handle["captured"]  # a plan may run on streams of the handle's own
        if captured is not None and captured is not current() and captured.is_capturing():
            raise RuntimeError("ForkInternalStreams: CUDNN_STATUS_EXECUTION_FAILED")
        handle["captured"] = current() if current().is_capturing() else None
        assert not any(address % 16 for address in tensors.values()), "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER"
        x, w, y = (t.view(tensors[t]) for t in (self._x, self._w, self._y))
        bias = None if self._bias is None else self._bias.view(tensors[self._bias]).reshape(-1)
        current().enqueue(lambda: self._convolve(x, w, bias, y, workspace), *tensors.values(), workspace)

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        """Factors as the most inexact engine that was not deselected reads them."""
        if values.dtype == np.float32 and numerical_note.TENSOR_CORE not in self.deselected:
            values = tf32(np.ascontiguousarray(values))
            if numerical_note.DOWN_CONVERT_INPUTS not in self.deselected:
                values = values.astype(np.float16).astype(np.float32)
        return values

    def _convolve(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, workspace: int) -> None:
        (ctypes.c_uint8 * 64).from_address(workspace)[:] = b"\0" * 64
        rank, window = x.ndim - 2, self._window
        groups = x.shape[1] // w.shape[0 if self._transposed else 1]
        if self._transposed:
            groups = y.shape[1] // w.shape[1]
        g = Geometry(
            batch=x.shape[0],
            in_channels=x.shape[1],
            out_channels=y.shape[1],
            groups=groups,
            input=x.shape[2:],
            kernel=w.shape[2:],
            output=y.shape[2:],
            stride=tuple(window["stride"]),
            padding=tuple(zip(window["pre_padding"], window["post_padding"], strict=True)),
            dilation=tuple(window["dilation"]),
            output_padding=(0,) * rank,
            transposed=self._transposed,
            activation=self._activation,
        )
        x, w = self._rounded(x), self._rounded(w)
        y[...] = reference.convolve(x.copy(), w.copy(), bias, g).astype(y.dtype)
        if not NAN["kept"] and self._activation is not None and self._activation.kind in ("relu", "leaky_relu"):
            y[np.isnan(y)] = 0
