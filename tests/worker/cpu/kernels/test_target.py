"""The instruction set that kernels are compiled for: what is chosen, what is refused, what the machine code has."""

import os
import re
import subprocess
import sys

import pytest

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_worker.cpu.kernels import target
from groupconv_worker.cpu.kernels.target import VARIABLE, select, select_here

AVX2 = {"avx2": True, "fma": True, "avx512f": False}
AVX512 = {"avx2": True, "fma": True} | dict.fromkeys(target.AVX512, True)
KERNELS = """
import numpy as np
from groupconv_worker.cpu.kernels import atomic
made = []
callback = atomic.callback
def kept(*arguments):
    made.append(callback(*arguments))
    return made[-1]
atomic.callback = kept
from groupconv_worker.cpu.kernels import filters, rows
dtype = np.dtype(np.float32)
filters.kernel(dtype, 0, 2, 2, 1, 6, 5, 1, 1)
rows.kernel(dtype, 1, 4, 2, 3, 3, 1, 1, 1, 1, 0)
print(*(kernel._library.get_asm_str() for kernel in made))
"""


@pytest.mark.parametrize(
    ("requested", "features", "name", "vector_bytes"),
    [
        ("", AVX2, "avx2", 32),
        ("", AVX512, "avx512", 64),
        ("avx2", AVX512, "avx2", 32),
        ("avx512", AVX512, "avx512", 64),
        ("neon", AVX512, "neon", 16),
    ],
)
def test_an_x86_machine_uses_its_widest_vectors_or_those_requested(requested, features, name, vector_bytes):
    found = select(requested, "x86_64", features)
    assert (found.name, found.vector_bytes) == (name, vector_bytes)


def test_arm64_uses_neon():
    assert select("", "aarch64", {"neon": True}).name == "neon"


@pytest.mark.parametrize("requested", ["avx512", "sse9", "64"])
def test_what_a_machine_lacks_is_refused(requested):
    with pytest.raises(InvalidArgumentError, match=f"{VARIABLE}: expected one of neon, avx2 on this machine"):
        select(requested, "x86_64", AVX2)


@pytest.mark.parametrize("requested", ["", "avx2", "neon"])
@pytest.mark.parametrize("lacks", ["fma", "avx2"])
def test_x86_without_fused_multiply_add_is_refused_in_one_sentence(lacks, requested):
    with pytest.raises(FailedPreconditionError, match=f"needs a processor with AVX2 and FMA .* lacks {lacks}") as found:
        select(requested, "x86_64", AVX2 | {lacks: False})
    assert "\n" not in str(found.value)


def test_kernels_are_compiled_for_a_level_so_that_all_machines_of_it_can_use_them():
    newer = {"avx10.1": True, "avxvnni": True}
    assert select("avx2", "x86_64", AVX512 | newer) == select("", "x86_64", AVX2)
    assert select("", "x86_64", AVX512 | newer) == select("", "x86_64", AVX512)


@pytest.mark.parametrize("lacks", target.AVX512)
def test_a_machine_with_some_of_avx512_uses_avx2(lacks):
    assert select("", "x86_64", AVX512 | {lacks: False}).name == "avx2"


def test_kernels_of_avx2_use_16_registers_of_32_bytes(tmp_path):
    try:
        select_here("avx2")
    except InvalidArgumentError as error:
        pytest.skip(str(error))
    environment = {**os.environ, VARIABLE: "avx2", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    registers = set(re.findall(r"%([xyz]mm\d+|k[0-7])\b", done.stdout))
    wide = {name for name in registers if not re.fullmatch(r"[xy]mm(\d|1[0-5])", name)}
    assert "vfmadd" in done.stdout
    assert "ymm0" in registers
    assert not wide
