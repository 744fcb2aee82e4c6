"""RawModule: kernels compiled for the host, called with CuPy's rules for arguments."""

import ctypes
from typing import Any

import numpy as np

from emulation import build
from emulation.memory import ndarray
from emulation.streams import current, current_device
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.modules import STANDARD, source
from groupconv_worker.cuda.network import instances as of_networks

SETTINGS = {"descending": False, "sanitizer": ""}
LAUNCHED: set[str] = set()


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...], backend: str, name_expressions: list[str]) -> None:
        assert backend == "nvrtc"
        assert options == (STANDARD,)
        every = (*instances.every_instance(), *of_networks.every_instance())
        known = tuple(expression for file, expression in every if source(file) == code)
        missing = set(name_expressions) - set(known)
        assert not missing, f"not in every_instance(), so the compile matrix does not cover it: {missing}"
        # One library for a whole file: g++ takes longer to start than to compile an instantiation, but with a
        # sanitizer it is the other way round.
        self._names = tuple(name_expressions) if SETTINGS["sanitizer"] else known
        self._library = build.library(code, self._names, SETTINGS["sanitizer"])

    def get_function(self, name: str) -> "Function":
        return Function(name, getattr(self._library, f"launch_{self._names.index(name)}"))


class Function:
    def __init__(self, name: str, entry: Any) -> None:
        self._name, self._entry = name, entry

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0):
        assert 1 <= block[0] <= 1024
        assert shared_mem <= 48 * 1024, "more needs an attribute set on the function"
        values = [_value(a) for a in args]
        arrays = [a for a in args if isinstance(a, ndarray)]
        assert {a.device for a in arrays} <= {None, current_device()}, "memory of another device"
        hosts = [a.host for a in arrays]
        LAUNCHED.add(self._name)
        # Records are copied at the launch, as a driver does; arrays are only pointed at.
        current().enqueue(
            lambda: self._run((*grid, 1, 1)[:3], (*block, 1, 1)[:3], values, shared_mem, hosts),
            *(a.data.ptr for a in arrays if a.size),
        )

    def _run(self, grid: Any, block: Any, values: list[Any], shared: int, keep: Any) -> None:
        pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
        sizes = (ctypes.c_int * len(values))(*[v.nbytes for v in values])
        dims = ctypes.c_uint * 3
        wrong = self._entry(
            dims(*grid), dims(*block), shared, ctypes.c_bool(SETTINGS["descending"]), pointers, sizes, len(values)
        )
        assert wrong == -1, f"{self._name}: argument {wrong} has {sizes[wrong]} bytes, or the count is wrong"


def _value(argument: Any) -> np.ndarray:
    """What the driver is given: the address of a device array, the bytes of anything else."""
    if isinstance(argument, ndarray):
        return np.array(argument.data.ptr, dtype=np.uint64)
    if isinstance(argument, np.ndarray):
        assert argument.size == 1, "CuPy passes only records and scalars by value"
        return argument.copy()
    assert isinstance(argument, np.generic), f"{type(argument)} has no definite size"
    return np.array(argument)
