"""Modules under their old names: an import of one works, and warns of the new name."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "address": "transport.address",
    "arena": "memory.arena",
    "bands": "streaming.bands",
    "chunks": "wire.chunks",
    "codec": "wire.codec",
    "compress": "wire.compress",
    "cost": "convolution.cost",
    "cuda": "gpu.arrays",
    "cuda_driver": "gpu.driver",
    "device": "gpu.arrays",
    "dtypes": "convolution.dtypes",
    "exports": "memory.exports",
    "geometry": "convolution.geometry",
    "kernels": "convolution.kernels",
    "padding": "convolution.padding",
    "pages": "transport.malloc",
    "places": "memory.regions",
    "plan": "convolution.plan",
    "progress": "streaming.progress",
    "requests": "wire.requests",
    "rpc": "transport.channel",
    "shared": "memory.shared",
    "spec": "convolution.spec",
    "stream": "streaming.stream",
    "talk": "transport.exchange",
    "tensors": "wire.tensors",
    "tracing": "transport.tracing",
}
"""The SDK's own modules: old name to new name."""


class _Moved(MetaPathFinder, Loader):
    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, self._names[module.__name__]
        warnings.warn(f"{old} is now {new}; the old name goes with version 0.3", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)  # the import system takes it from there


def redirect(package: str, names: Mapping[str, str]) -> None:
    """Let modules be imported by their old names.

    Args:
        package: the package they belong to.
        names: old name to new name, both within the package.

    Example:
        >>> import warnings
        >>> redirect("groupconv", {"an_old_name": "errors"})
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     from groupconv.an_old_name import GroupconvError
        >>> str(seen[0].message)
        'groupconv.an_old_name is now groupconv.errors; the old name goes with version 0.3'
    """
    # Ahead of the finder of files, which would load a module of a moved package a second time.
    sys.meta_path.insert(0, _Moved({f"{package}.{old}": f"{package}.{new}" for old, new in names.items()}))


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`, which finds names that moved to other modules and warns.

    Args:
        module: the module that had the names.
        names: name to the module that has it now.

    Example:
        >>> import warnings
        >>> find = moved_names("groupconv.old", {"GroupconvError": "groupconv.errors"})
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     find("GroupconvError")
        <class 'groupconv.errors.GroupconvError'>
        >>> str(seen[0].message)
        'groupconv.old.GroupconvError is now in groupconv.errors; the old name goes with version 0.3'
    """

    def find(name: str) -> Any:
        new = names.get(name)
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        message = f"{module}.{name} is now in {new}; the old name goes with version 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(new), name)

    return find
