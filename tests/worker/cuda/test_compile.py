"""Every kernel compiles to machine code for every architecture, without a GPU: what ptxas says is checked."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from groupconv.dtypes import BFLOAT16, Types
from groupconv_worker.cuda import instances
from groupconv_worker.cuda.instances import DIRECT_TILES, every_instance
from groupconv_worker.cuda.nvrtc import ARCHITECTURES, Compiled, compile_kernels

pytest.importorskip("nvidia.cu13", reason="NVRTC comes with the nvidia-cuda-nvrtc wheel")

REGISTERS = 65536
"""Of a multiprocessor. Source: CUDA C++ Programming Guide, compute capabilities 7.5 to 12.0."""

F32 = np.dtype(np.float32)
HOT = [
    *[("direct.cu", instances.direct(Types(F32, F32, F32, F32), tile, zeros=True)) for tile in DIRECT_TILES],
    ("direct.cu", instances.direct(Types(*[BFLOAT16] * 2, F32, BFLOAT16), DIRECT_TILES[0], zeros=False)),
    ("grouped.cu", instances.grouped(F32, 3, 1, 1, 4)),
    ("grouped.cu", instances.grouped(F32, 3, 1, 4, 4)),
    ("patches.cu", instances.patches(2, zeros=True)),
    ("finish.cu", instances.finish_in_place(F32, 4)),
    ("spectral.cu", instances.spectral(F32, 4)),
]
"""One of each kind."""


def compile_all(wanted: list[tuple[str, str]], architecture: int) -> dict[str, Compiled]:
    by_file = defaultdict(list)
    for file, expression in wanted:
        by_file[file].append(expression)
    found: dict[str, Compiled] = {}
    for file, expressions in by_file.items():
        found |= compile_kernels(file, expressions, architecture)
    return found


def hold_to_account(compiled: dict[str, Compiled], wanted: list[tuple[str, str]]) -> None:
    assert set(compiled) == {expression for _, expression in wanted}
    threads = {
        instances.direct(types, tile, zeros=zeros): tile.threads
        for types in [Types(F32, F32, F32, F32), Types(*[BFLOAT16] * 2, F32, BFLOAT16)]
        for tile in DIRECT_TILES
        for zeros in (True, False)
    }
    for expression, c in compiled.items():
        assert (c.spilled, c.stack) == (0, 0), f"{expression} spills {c}"
        assert c.registers * 256 <= REGISTERS, f"{expression} cannot be launched with 256 threads: {c}"
        assert c.shared <= 48 * 1024, expression
        if "double" not in expression:  # two blocks of each multiprocessor hide each other's barriers
            assert c.registers * threads.get(expression, 256) * 2 <= REGISTERS, f"{expression}: {c}"


def test_one_of_each_kind_for_every_architecture():
    with ThreadPoolExecutor(2) as pool:
        for compiled in pool.map(lambda arch: compile_all(HOT, arch), ARCHITECTURES):
            hold_to_account(compiled, HOT)


def test_static_shared_memory_is_what_the_tiles_say():
    names = {instances.direct(Types(F32, F32, F32, F32), tile, zeros=True): tile for tile in DIRECT_TILES}
    for name, compiled in compile_kernels("direct.cu", names, 80).items():
        assert compiled.shared == names[name].shared_bytes(4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_instantiation(architecture: int):
    hold_to_account(compile_all(every_instance(), architecture), every_instance())


def test_every_instantiation_for_one_architecture():
    """The oldest: what it cannot do shows here. The others are compiled by the slow test."""
    halves = every_instance()[::2], every_instance()[1::2]
    with ThreadPoolExecutor(2) as pool:
        for wanted, compiled in zip(halves, pool.map(lambda half: compile_all(half, 75), halves), strict=True):
            hold_to_account(compiled, wanted)


def test_a_kernel_that_does_not_compile_is_refused_with_the_log():
    with pytest.raises(RuntimeError, match=r"direct\.cu for sm_90"):
        compile_kernels("direct.cu", ["groupconv::direct<no_such_type>"], 90)
