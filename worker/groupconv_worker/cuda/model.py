"""What a GPU could do with the kernels, computed from the compiler's report: a model, not a measurement.

Occupancy is the share of a multiprocessor's warps that are in use at once. The roofline is the least time that
arithmetic and memory traffic allow (Williams, Waterman and Patterson, "Roofline: an insightful visual performance
model", 2009).
"""

import math
from dataclasses import dataclass

from groupconv.convolution import cost
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.nvrtc import CompiledKernel


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device by its data sheet.

    Attributes:
        name: the usual one.
        architecture: 80 for sm_80.
        multiprocessors: of the device.
        threads, registers, shared, blocks: of a multiprocessor; shared in bytes.
        flops: float32 operations per second, outside tensor cores.
        bandwidth: bytes per second of device memory.
    """

    name: str
    architecture: int
    multiprocessors: int
    threads: int
    registers: int
    shared: int
    blocks: int
    flops: float
    bandwidth: float


A100 = Gpu("A100 SXM 40 GB", 80, 108, 2048, 65536, 164 * 1024, 32, 19.5e12, 1.555e12)
"""Source: NVIDIA A100 Tensor Core GPU Architecture, 2020, tables 1 and 4."""

H100 = Gpu("H100 SXM", 90, 132, 2048, 65536, 228 * 1024, 32, 66.9e12, 3.35e12)
"""Source: NVIDIA H100 Tensor Core GPU Architecture, 2022, tables 2 and 3."""

H200 = Gpu("H200 SXM", 90, 132, 2048, 65536, 228 * 1024, 32, 66.9e12, 4.8e12)
"""An H100 with faster memory. Source: NVIDIA H200 Tensor Core GPU datasheet, 2024."""

WARP = 32
REGISTER_UNIT = 256
"""Registers are given to a warp in units of this many."""
RESERVED_SHARED = 1024
"""Bytes of shared memory of each block that CUDA reserves. Source: CUDA C++ Programming Guide, section on sm_80."""


def blocks_per_multiprocessor(gpu: Gpu, compiled: CompiledKernel, threads: int, dynamic_shared: int = 0) -> int:
    """Blocks a multiprocessor holds at once.

    Example:
        >>> blocks_per_multiprocessor(A100, CompiledKernel(registers=128, shared=16384, spilled=0, stack=0), 256)
        2
    """
    warps = math.ceil(threads / WARP)
    warp_registers = math.ceil(compiled.registers * WARP / REGISTER_UNIT) * REGISTER_UNIT
    return min(
        gpu.blocks,
        gpu.threads // (warps * WARP),
        gpu.registers // (warp_registers * warps),
        gpu.shared // (compiled.shared + dynamic_shared + RESERVED_SHARED),
    )


def occupancy(gpu: Gpu, compiled: CompiledKernel, threads: int, dynamic_shared: int = 0) -> float:
    """Share of a multiprocessor's warps that the blocks fill."""
    blocks = blocks_per_multiprocessor(gpu, compiled, threads, dynamic_shared)
    return blocks * math.ceil(threads / WARP) * WARP / gpu.threads


def least_bytes(problem: Problem) -> int:
    """Bytes that every kernel has to move: input, filters and output once each."""
    g, types = problem.geometry, problem.types
    return cost.bytes_in(g, types) + cost.bytes_out(g, types)


def least_seconds(gpu: Gpu, flops: float, moved: float) -> tuple[float, str]:
    """The roofline: the larger of both times, and its name."""
    computing, moving = flops / gpu.flops, moved / gpu.bandwidth
    return max(computing, moving), "arithmetic" if computing > moving else "memory"
