"""With this folder and tests/ in PYTHONPATH, every process has an emulated GPU that others reach: Ray's workers, too.

The stand-ins are loaded when CuPy is.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any


class Emulated(MetaPathFinder, Loader):
    """Finds the stand-in where CuPy is asked for."""

    def find_spec(self, name: str, _path: Any, _target: Any = None) -> Any:
        return spec_from_loader(name, self) if name == "cupy" else None

    def create_module(self, _spec: Any) -> ModuleType:
        from emulation import libcuda, memory, stand_in
        from groupconv.gpu import driver

        memory.PAGES = True
        module = stand_in.cupy()
        found = driver.Driver(libcuda.Libcuda(module.ipc))
        driver._driver = lambda: found
        return module

    def exec_module(self, module: ModuleType) -> None:
        """All of it is there."""


sys.meta_path.insert(0, Emulated())
