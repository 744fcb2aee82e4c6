"""Which forms of a kernel this process has, how many it may compile, and when.

A form is a kernel compiled for one block shape, stride and so on. Compiling one takes half a second to three seconds,
mostly under the GIL, and 1 to 10 MiB that Numba never gives back (it cannot remove a module from LLVM's engine). What
a caller sends chooses the form, so both are bounded:

- A process has at most `LIMIT` forms. What needs another one is computed by a general algorithm.
- A form that is on disk is loaded when it is asked for: 4 to 25 ms, 20 to 250 KiB.
- Where requests wait (`deferred`), a form that is not there is not compiled by who asks. The first request that asks
  gets a general algorithm; from the second on a thread compiles the form, one at a time, while requests go on without.
"""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cachetools import LRUCache

LIMIT = int(os.environ.get("GROUPCONV_KERNEL_FORMS", "128"))
"""Forms of a process, at most."""
ASKED = 4096
"""Forms that are not there of which it is known that they were asked for."""

log = logging.getLogger(__name__)
compiling = threading.Lock()
"""Held while something is compiled or loaded."""
_this = threading.local()


class NotCompiledError(LookupError):
    """A form is not there, and not now or never to be had: a general algorithm has to do."""


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, this thread compiles no form: what is not there or on disk raises NotCompiledError."""
    _this.deferred = True
    try:
        yield
    finally:
        _this.deferred = False


def check_compile() -> None:
    """Called before anything is compiled that is not on disk.

    Raises:
        NotCompiledError: this thread wants a form that must not be compiled now.
    """
    if getattr(_this, "loading", False):
        raise NotCompiledError


class Forms:
    """The forms of all kernels of a process.

    Args:
        limit: how many there may be.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.count = limit, 0
        self._asked: LRUCache[object, bool] = LRUCache(ASKED)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def kernel(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """A function that returns what `make` returns for a key, made once: the address of a form's code.

        Raises:
            NotCompiledError: it is not there, and is not to be compiled here and now.
        """
        made: dict[tuple[object, ...], Any] = {}

        @functools.wraps(make)
        def get(*key: object) -> Any:
            found = made.get(key)
            return self._obtain(made, make, key) if found is None else found

        return get

    def _obtain(self, made: dict[tuple[object, ...], Any], make: Callable[..., Any], key: tuple[object, ...]) -> Any:
        if self.count >= self.limit:
            raise NotCompiledError
        if not getattr(_this, "deferred", False):
            with compiling:
                return self._make(made, make, key)
        if not compiling.acquire(blocking=False):  # to load one would wait for what is compiled
            raise NotCompiledError
        _this.loading = True
        try:
            return self._make(made, make, key)
        except NotCompiledError:
            asked_before = self._ask((make, key))
        finally:
            _this.loading = False
            compiling.release()
        if asked_before:
            self._compile(made, make, key)
        raise NotCompiledError

    def _make(self, made: dict[tuple[object, ...], Any], make: Callable[..., Any], key: tuple[object, ...]) -> Any:
        if key not in made:
            made[key] = make(*key)
            self.count += 1
            if self.count == self.limit:
                log.warning("there are %d forms of kernels, the limit; others use general algorithms", self.limit)
        return made[key]

    def _ask(self, form: object) -> bool:
        """Whether a form was asked for before."""
        with self._lock:
            before = form in self._asked
            self._asked[form] = True
            return before

    def _compile(self, made: dict[tuple[object, ...], Any], make: Callable[..., Any], key: tuple[object, ...]) -> None:
        """Begin to compile a form in a thread, unless another one is; who wants it asks again."""

        def work() -> None:
            try:
                with compiling:
                    self._make(made, make, key)
            except Exception:
                log.exception("the form %s of kernel %s cannot be compiled", key, make.__name__)

        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                # not a daemon: the process must not end while LLVM is at work
                self._thread = threading.Thread(target=work, name="compiler")
                self._thread.start()


FORMS = Forms()
"""Those of this process. A command that compiles ahead of requests, or measures, lifts its limit."""
form = FORMS.kernel
