"""Every kernel compiles to machine code for every architecture, without a GPU: what ptxas says is checked."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from groupconv.convolution.dtypes import BFLOAT16, Types
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.instances import DIRECT_TILES
from groupconv_worker.cuda.network import instances as of_networks
from groupconv_worker.cuda.nvrtc import ARCHITECTURES, CompiledKernel, compile_kernels

for wheel in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
    pytest.importorskip(wheel, reason="NVRTC comes with the wheels nvidia-cuda-nvrtc and nvidia-cuda-nvrtc-cu12")

REGISTERS = 65536
"""Of a multiprocessor. Source: CUDA C++ Programming Guide, compute capabilities 7.5 to 12.0."""

F32 = np.dtype(np.float32)
HOT = [
    *[("direct.cu", instances.direct(Types(F32, F32, F32, F32), tile, near=True)) for tile in DIRECT_TILES],
    ("direct.cu", instances.direct(Types(*[BFLOAT16] * 2, F32, BFLOAT16), DIRECT_TILES[0], near=False)),
    ("depthwise.cu", instances.depthwise(F32, 3, 1, 4, 4)),
    ("depthwise.cu", instances.depthwise(F32, 7, 1, 4, 4)),
    ("stencil.cu", instances.stencil(F32, 3, 1, 4, 2, 4)),
    ("grouped.cu", instances.grouped(F32, 3, 1, 1, 4)),
    ("grouped.cu", instances.grouped(F32, 3, 1, 4, 4)),
    ("patches.cu", instances.patches(2, near=True)),
    ("finish.cu", instances.finish_in_place(F32, 4)),
    ("spectral.cu", instances.spectral(F32, 4)),
    *(of_networks.ELEMENTS, of_networks.POOL, of_networks.NEIGHBORS, of_networks.REDUCE, of_networks.SOFTMAX),
    *(of_networks.NORMALIZE, of_networks.WHERE_LARGEST, of_networks.RESAMPLE),
    *(of_networks.copy(4), of_networks.gather(4, np.dtype(np.int64))),
]
"""One of each kind."""
EVERY = [*instances.every_instance(), *of_networks.every_instance()]
SPILLED = {70: 32}
"""Bytes of registers that a kernel may spill, by architecture. On sm_70 CUDA 12 spills 20 in three of the 159: in
grouped kernels of windows of five at stride 2; elsewhere none spills."""
STACK = {of_networks.ELEMENTS[1]: 32}
"""Bytes of local memory by kernel, of which none are spills: the sine of a large angle needs 28 for its digits of π."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes, as NVRTC compiles one at a time. All tests share them: starting them takes 3 s of processor time."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def compile_all(
    pool: ProcessPoolExecutor, wanted: list[tuple[str, str]], architectures: Sequence[tuple[int, int]]
) -> list[dict[str, CompiledKernel]]:
    """What ptxas says of each expression, for each architecture and version of CUDA."""
    by_file = defaultdict(list)
    for file, expression in wanted:
        by_file[file].append(expression)
    # in halves, so that two processes have equally much to do
    parts = [(f, half) for f, e in by_file.items() for half in (e[::2], e[1::2]) if half]
    jobs = [(file, half, *architecture) for architecture in architectures for file, half in parts]
    done = list(pool.map(compile_kernels, *zip(*jobs, strict=True)))
    found: dict[tuple[int, ...], dict[str, CompiledKernel]] = defaultdict(dict)
    for (_, _, *architecture), compiled in zip(jobs, done, strict=True):
        found[tuple(architecture)] |= compiled
    return list(found.values())


def hold_to_account(compiled: dict[str, CompiledKernel], wanted: list[tuple[str, str]], spilled: int = 0) -> None:
    assert set(compiled) == {expression for _, expression in wanted}
    threads = {
        instances.direct(types, tile, near=near): tile.threads
        for types in [Types(F32, F32, F32, F32), Types(*[BFLOAT16] * 2, F32, BFLOAT16)]
        for tile in DIRECT_TILES
        for near in (True, False)
    }
    static = {instances.direct(Types(*[F32] * 4), tile, near=True): tile.shared_bytes(4) for tile in DIRECT_TILES}
    for expression, c in compiled.items():
        most = 128 if {"depthwise", "stencil"} & set(re.findall(r"\w+", expression)) else 256  # threads of a block
        assert c.spilled <= spilled, f"{expression} spills {c}"
        assert c.stack <= spilled + STACK.get(expression, 0), f"{expression} has a stack: {c}"
        assert c.registers * most <= REGISTERS, f"{expression} cannot be launched with {most} threads: {c}"
        assert c.shared <= 48 * 1024, expression
        assert c.shared == static.get(expression, c.shared), f"{expression}: not what its tile says"
        if "double" not in expression:  # two blocks of each multiprocessor hide each other's barriers
            assert c.registers * threads.get(expression, most) * 2 <= REGISTERS, f"{expression}: {c}"


def test_one_of_each_kind_for_the_newest_architecture_and_of_each_file_for_the_oldest(pool: ProcessPoolExecutor):
    """`test_every_instantiation` and `test_one_of_each_kind` have the others, and every kernel for the oldest."""
    newest, oldest = (max(ARCHITECTURES[13]), 13), (min(ARCHITECTURES[12]), 12)
    hold_to_account(compile_all(pool, HOT, [newest])[0], HOT)
    first = list(dict(reversed(HOT)).items())
    hold_to_account(compile_all(pool, first, [oldest])[0], first)


@pytest.mark.slow
@pytest.mark.parametrize(("cuda", "architecture"), [(12, 90), (13, 87), (13, 103), (13, 121)])
def test_one_of_each_kind(pool: ProcessPoolExecutor, cuda: int, architecture: int):
    """The others of `ARCHITECTURES` are covered by `test_every_instantiation`."""
    hold_to_account(compile_all(pool, HOT, [(architecture, cuda)])[0], HOT)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", [70, 75, 80, 86, 89, 90, 100, 120])
def test_every_instantiation(pool: ProcessPoolExecutor, architecture: int):
    """Those of a family share their instructions: 87 those of 86, 103 those of 100, 121 those of 120."""
    cuda = 13 if architecture in ARCHITECTURES[13] else 12
    compiled = compile_all(pool, EVERY, [(architecture, cuda)])[0]
    spilling = [f"{name}: {c.spilled} bytes" for name, c in compiled.items() if c.spilled]
    print(f"sm_{architecture}: {len(spilling)} of {len(compiled)} spill", *spilling, sep="\n")
    hold_to_account(compiled, EVERY, SPILLED.get(architecture, 0))


def test_a_kernel_that_does_not_compile_is_refused_with_the_log():
    with pytest.raises(RuntimeError, match=r"direct\.cu for sm_90"):
        compile_kernels("direct.cu", ["groupconv::direct<no_such_type>"], 90)
