"""The forms of kernels that this process has: which, how many, and who may compile one.

A form is a kernel compiled for one block shape, stride and so on. Compiling one takes half a second to three seconds,
mostly under the GIL, and 1 to 10 MiB that Numba never gives back (it cannot remove a module from LLVM's engine). What
a caller sends chooses the form, so both are bounded:

- A process has at most `LIMIT` forms. What needs another one is computed by a general algorithm.
- A form that is on disk is loaded when it is asked for: 4 to 25 ms, 20 to 250 KiB.
- Where requests wait (`deferred`), nothing is compiled. What needs a form that is not there gets a general algorithm,
  until another process has compiled it (cpu/compiler.py).
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cachetools import LRUCache

from groupconv_worker.cpu.variables import integer_variable

LIMIT = integer_variable("GROUPCONV_KERNEL_FORMS", 128)
"""Forms of a process, at most."""
MISSING = 4096
"""Forms that are remembered to be neither here nor on disk."""

log = logging.getLogger(__name__)
compiling = threading.Lock()
"""Held while something is compiled or loaded."""
_this = threading.local()


class Form(NamedTuple):
    """The name of a form: the kernel's and its key."""

    kernel: str
    key: tuple[object, ...]


class NotCompiledError(LookupError):
    """A form is not there, and not to be had now: a general algorithm has to do.

    Attributes:
        form: that could be compiled by another process; None if this process may have no more.
    """

    def __init__(self, form: Form | None = None) -> None:
        super().__init__(f"{form or 'another form'} is not compiled")
        self.form = form


@contextlib.contextmanager
def deferred(*, patient: bool = False) -> Iterator[None]:
    """Inside, this thread compiles nothing: what is neither here nor on disk raises NotCompiledError.

    Args:
        patient: whether it waits while another thread compiles or loads; else that raises, too.
    """
    _this.deferred, _this.patient = True, patient
    try:
        yield
    finally:
        _this.deferred = False


def is_deferred() -> bool:
    """Whether this thread is inside `deferred`."""
    return getattr(_this, "deferred", False)


def check_compile() -> None:
    """Called before anything is compiled that is not on disk.

    Raises:
        NotCompiledError: this thread is inside `deferred`.
    """
    if is_deferred():
        raise NotCompiledError


class Forms:
    """The forms of all kernels of a process.

    Args:
        limit: how many there may be.

    Attributes:
        made: the names of those that are here, in the order in which they came.
        on_made: called with the name of each one that comes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.count = limit, 0
        self.made: list[Form] = []
        self.on_made: Callable[[Form], None] = lambda _: None
        self._missing: LRUCache[Form, bool] = LRUCache(MISSING)
        self._lock = threading.Lock()

    def kernel(self, make: Callable[..., Any], *, counted: bool = True) -> Callable[..., Any]:
        """A function that returns what `make` returns for a key, made once: the address of a form's code.

        Args:
            make: compiles a form, or loads it from disk.
            counted: whether its forms count towards the limit; false for kernels of few keys.

        Raises:
            NotCompiledError: it is not there, and is not to be compiled here and now.
        """
        forms: dict[tuple[object, ...], Any] = {}
        name = f"{make.__module__}.{make.__qualname__}"

        @functools.wraps(make)
        def get(*key: object) -> Any:
            compiled = forms.get(key)
            if compiled is not None:
                return compiled
            if counted and self.count >= self.limit:
                raise NotCompiledError
            form = Form(name, key)
            if not is_deferred():
                with compiling:
                    return add(form)
            if form in self._missing or not compiling.acquire(blocking=_this.patient):  # who holds it may take long
                raise NotCompiledError(form)
            try:
                return add(form)
            except NotCompiledError:
                with self._lock:
                    self._missing[form] = True
                raise NotCompiledError(form) from None
            finally:
                compiling.release()

        def add(form: Form) -> Any:
            if form.key not in forms:
                forms[form.key] = make(*form.key)
                self.made.append(form)
                self.on_made(form)
                self.count += counted
                if counted and self.count == self.limit:
                    log.warning("there are %d forms of kernels, the limit; others use general algorithms", self.limit)
            return forms[form.key]

        return get

    def appeared(self, forms: Iterable[Form]) -> None:
        """These forms are on disk now: whoever asks next looks there."""
        with self._lock:
            for form in forms:
                self._missing.pop(form, None)


FORMS = Forms()
"""Those of this process. A command that compiles ahead of requests, or measures, lifts its limit."""
form = FORMS.kernel
