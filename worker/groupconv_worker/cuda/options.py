"""Settings of the cuda engine, which an operator gives as environment variables."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from groupconv.convolution.spec import MATHS, Math
from groupconv.errors import InvalidArgumentError

GRAPH_MEMORY, OLD_GRAPH_MEMORY = "GROUPCONV_CUDA_GRAPH_MEMORY", "GROUPCONV_CUDA_RECORDINGS"


_PARSE: dict[str, Callable[[str], Any]] = {"math": str, "algorithm": str, "memory_fraction": float}


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """Settings of a `CudaEngine`.

    Attributes:
        memory_limit: bytes of device memory the engine may hold; 0 for no limit but the device's.
        memory_fraction: share of the device's memory that the engine may take, in (0, 1]; workers that share a device
            have each their own. The smaller one of both limits holds.
        workspace: bytes an algorithm may use beside its input, output and weights.
        chunk: bytes of input and output sent at a time, so that copies overlap with computing.
        graph_memory: bytes of device and pinned memory that captured graphs of repeated runs may hold; 0 captures none.
        page_locked: bytes of lanes' memory that may be page-locked, which saves a copy each way; 0 locks none.
        math: of convolutions whose `ConvSpec.math` is None.
        deterministic: the same bits from every run on a device model: own kernels and cuFFT alone, which sum
            in a fixed order, chosen by rule. cuBLAS keeps that promise only while one stream is active, and a
            choice by timing may fall differently after a restart.
        algorithm: always take the algorithm of this name; "" chooses.

    Raises:
        InvalidArgumentError: a negative size, a fraction outside (0, 1], or an unknown `math`.

    Example:
        >>> CudaOptions(math="tf32").workspace == 256 * 2**20
        True
    """

    memory_limit: int = 0
    memory_fraction: float = 1.0
    workspace: int = 256 * 2**20
    chunk: int = 8 * 2**20
    graph_memory: int = 2**30
    page_locked: int = 2**30
    math: Math = "float32"
    deterministic: bool = False
    algorithm: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables GROUPCONV_CUDA_ and the name of a field in capitals, _DETERMINISTIC as 0 or 1.

        Every worker process, also of Ray, inherits the environment.

        Raises:
            InvalidArgumentError: naming the variable.

        Example:
            >>> CudaOptions.from_environ({"GROUPCONV_CUDA_MATH": "tf32"}).math
            'tf32'
        """
        fields: dict[str, Any] = {}
        if (old := environ.get(OLD_GRAPH_MEMORY)) is not None:
            warnings.warn(f"{OLD_GRAPH_MEMORY} is now called {GRAPH_MEMORY}", FutureWarning, stacklevel=2)
            environ = {GRAPH_MEMORY: old, **environ}
        for field in cls.__slots__:
            name = f"GROUPCONV_CUDA_{field.upper()}"
            if (text := environ.get(name)) is None:
                continue
            try:
                fields[field] = _PARSE.get(field, int)(text)
            except ValueError:
                what = "a number" if field == "memory_fraction" else "an integer"
                raise InvalidArgumentError(name, what, text) from None
        fields["deterministic"] = bool(fields.get("deterministic", False))
        return cls(**fields)

    def __post_init__(self) -> None:
        for field in ("memory_limit", "workspace", "chunk", "graph_memory", "page_locked"):
            if getattr(self, field) < 0:
                raise InvalidArgumentError(f"cuda.{field}", "bytes, at least 0", getattr(self, field))
        if not 0 < self.memory_fraction <= 1:
            raise InvalidArgumentError("cuda.memory_fraction", "above 0, at most 1", self.memory_fraction)
        if self.math not in MATHS:
            raise InvalidArgumentError("cuda.math", f"one of {', '.join(MATHS)}", self.math)
