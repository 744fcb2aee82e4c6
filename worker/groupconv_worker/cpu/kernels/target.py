"""The instruction set that kernels are compiled for: the largest of these that this machine has, or the one asked for.

On x86 it is a level of the architecture, not this machine's processor: kernels are as fast, and kernels compiled on one
machine run on all others of the level.

The environment variable GROUPCONV_SIMD asks for one, so that a machine with AVX-512 can test what others run:

    avx512   vectors of 64 bytes, 32 registers (x86-64-v4)
    avx2     vectors of 32 bytes, 16 registers, no instruction of AVX-512 (x86-64-v3)
    neon     vectors of 16 bytes, 32 registers; on x86 the same kernels in this machine's instructions
"""

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import llvmlite.binding

from groupconv.errors import FailedPreconditionError, InvalidArgumentError

VARIABLE = "GROUPCONV_SIMD"
X86 = ("x86_64", "AMD64", "i386", "i686")
AVX2_CPU = "x86-64-v3"
"""LLVM's name of a processor with AVX2 and FMA, of no maker."""
AVX512_CPU = "x86-64-v4"
"""LLVM's name of a processor with what AVX512 has."""
AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True, slots=True)
class Target:
    """An instruction set.

    Attributes:
        name: avx512, avx2 or neon.
        vector_bytes: of one vector register.
        accumulators: vectors of a block that may stay in registers beside the operands.
        cpu: LLVM's name of the processor to compile for; None for this machine's.
        features: LLVM's names of features, each with + or -, that differ from the processor's; None for this machine's.
    """

    name: str
    vector_bytes: int
    accumulators: int
    cpu: str | None = None
    features: str | None = None


def select(requested: str, machine: str, features: Mapping[str, bool]) -> Target:
    """The target for a machine, or the smaller one requested.

    Args:
        requested: avx512, avx2 or neon; empty for the best the machine has.
        machine: the architecture, as `platform.machine()` names it.
        features: LLVM's names of the processor's features, and whether it has them.

    Raises:
        FailedPreconditionError: an x86 processor without AVX2 and FMA.
        InvalidArgumentError: the request is not a name, or not of this machine.

    Example:
        >>> select("", "x86_64", {"avx2": True, "fma": True, "avx512f": False}).vector_bytes
        32
        >>> select("", "x86_64", {"avx2": False, "fma": False})
        Traceback (most recent call last):
        ...
        groupconv.errors.FailedPreconditionError: the cpu engine needs a processor with AVX2 and FMA (x86-64-v3); \
this one lacks avx2, fma
    """
    available = {"neon": Target("neon", 16, 28)}
    if machine in X86:
        missing = [name for name in ("avx2", "fma") if not features.get(name)]
        if missing:
            raise FailedPreconditionError(
                f"the cpu engine needs a processor with AVX2 and FMA ({AVX2_CPU}); this one lacks {', '.join(missing)}"
            )
        available = {"neon": Target("neon", 16, 28, AVX2_CPU, ""), "avx2": Target("avx2", 32, 12, AVX2_CPU, "")}
        if all(features.get(name) for name in AVX512):
            available |= {"avx512": Target("avx512", 64, 28, AVX512_CPU, "-prefer-256-bit")}
    best = list(available)[-1]
    if (requested or best) not in available:
        raise InvalidArgumentError(VARIABLE, f"one of {', '.join(available)} on this machine", requested)
    return available[requested or best]


def select_here(requested: str) -> Target:
    """`select` on this machine."""
    return select(requested, platform.machine(), llvmlite.binding.get_host_cpu_features())


@functools.cache
def target() -> Target:
    """The target of this process.

    Raises:
        FailedPreconditionError, InvalidArgumentError: as `select`.
    """
    return select_here(os.environ.get(VARIABLE, "").lower())


def is_restricted() -> bool:
    """Whether this process uses a smaller instruction set than its machine has."""
    return target() != select_here("")
