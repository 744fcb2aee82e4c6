"""What a kernel does to its sums before it stores them: add a residual, apply an activation.

The activation is a code among a kernel's words, not a kernel of its own: the same machine code serves all.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.activation import CODES
from groupconv_worker.cpu.blocked.layout import Blocked

DEFAULTS: dict[str, tuple[float, ...]] = {
    "Relu": (0.0, math.inf),
    "Clip": (-math.inf, math.inf),
    "LeakyRelu": (0.01,),
    "HardSigmoid": (0.2, 0.5),
}
"""Parameters of activations where none are given."""
FUSED = frozenset(CODES) | {"Relu"}
"""Activations that kernels apply as they store."""


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to the sums of a convolution: plus the residual, then the activation.

    Attributes:
        activation: ONNX's name and its parameters: ("Relu",), ("Clip", low, high), ("LeakyRelu", slope),
            ("HardSigmoid", alpha, beta), ("HardSwish",), ("Sigmoid",), ("Silu",), ("Tanh",); empty for none.
        residual: how the tensor lies that is added; None if there is none.

    Example:
        >>> Epilogue(("Relu",)).code, Epilogue(("Clip", 0.0, 6.0)).parameters.tolist()
        (0, [0.0, 6.0])
    """

    activation: tuple[Any, ...] = ()
    residual: Blocked | None = None

    @property
    def code(self) -> int:
        """The activation's code.

        Raises:
            ValueError: there is no such activation.
        """
        name = self.activation[0] if self.activation else "Clip"
        if name not in FUSED:
            raise ValueError(f"activation: expected Relu, {', '.join(CODES)}, got {name}")
        return CODES["Clip" if name == "Relu" else name]

    @property
    def parameters(self) -> Array:
        """Two numbers that go with the code, float32."""
        name, *arguments = self.activation or ("Clip",)
        values = [*DEFAULTS.get(name, ()), 0.0, 0.0][:2]
        values[: len(arguments)] = arguments
        return np.array(values, np.float32)
