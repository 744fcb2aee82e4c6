"""What an operator may ask of the cuda engine."""

from dataclasses import dataclass
from typing import Literal, get_args

from groupconv.errors import InvalidArgumentError

Math = Literal["float32", "tf32", "float16", "bfloat16"]
MATHS: tuple[str, ...] = get_args(Math)


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """Settings of a `CudaEngine`.

    Attributes:
        memory_limit: bytes of device memory the engine may hold; 0 for no limit but the device's.
        workspace: bytes an algorithm may use beside its input, output and weights.
        chunk: bytes of input and output sent at a time, so that copies overlap with computing.
        math: what the products of float32 operands may be rounded to on tensor cores (in cuBLAS and cuDNN);
            "float32" means not at all. Sums are kept in float32 always.
        deterministic: the same bits from every run on a device model: own kernels and cuFFT alone, which sum
            in a fixed order, chosen by rule. cuBLAS keeps that promise only while one stream is active, and a
            choice by timing may fall differently after a restart.
        algorithm: always take the algorithm of this name; "" chooses.

    Raises:
        InvalidArgumentError: a negative size or an unknown `math`.

    Example:
        >>> CudaOptions(math="tf32").workspace == 256 * 2**20
        True
    """

    memory_limit: int = 0
    workspace: int = 256 * 2**20
    chunk: int = 16 * 2**20
    math: Math = "float32"
    deterministic: bool = False
    algorithm: str = ""

    def __post_init__(self) -> None:
        for field in ("memory_limit", "workspace", "chunk"):
            if getattr(self, field) < 0:
                raise InvalidArgumentError(f"cuda.{field}", "bytes, at least 0", getattr(self, field))
        if self.math not in MATHS:
            raise InvalidArgumentError("cuda.math", f"one of {', '.join(MATHS)}", self.math)
