"""Forms of kernels: how many are compiled, by whom, and that what lacks one is computed all the same."""

import threading
from collections.abc import Callable

import pytest

from groupconv_worker.cpu.kernels.forms import Forms, NotCompiledError, check_compile, compiling, deferred


class Kernel:
    """A kernel of a set of forms, which notes who compiled what; forms in `disk` need no compiling."""

    def __init__(self, forms: Forms, disk: set[int] | None = None) -> None:
        self.compiled: list[tuple[int, str]] = []
        self.get: Callable[[int], int] = forms.kernel(self._make)
        self._disk = set() if disk is None else disk

    def _make(self, key: int) -> int:
        if key not in self._disk:
            check_compile()
        self.compiled.append((key, threading.current_thread().name))
        return 1000 + key


def test_who_may_wait_compiles_a_form_once():
    kernel = Kernel(Forms())
    assert [kernel.get(1), kernel.get(2), kernel.get(1)] == [1001, 1002, 1001]
    assert [key for key, _ in kernel.compiled] == [1, 2]


def test_a_request_compiles_nothing_however_often_it_asks():
    kernel = Kernel(Forms())
    with deferred():
        for key in [*range(1000), 0, 0]:
            with pytest.raises(NotCompiledError) as missing:
                kernel.get(key)
            assert missing.value.form is not None
            assert missing.value.form.key == (key,)
    assert kernel.compiled == []


def test_a_form_on_disk_is_loaded_by_the_first_request():
    kernel = Kernel(Forms(), disk={1})
    with deferred():
        assert kernel.get(1) == 1001


def test_a_thread_with_patience_waits_for_one_that_compiles():
    kernel, found = Kernel(Forms(), disk={1}), list[int]()

    def get() -> None:
        with deferred(patient=True):
            found.append(kernel.get(1))

    patient = threading.Thread(target=get)
    with compiling:
        with deferred(), pytest.raises(NotCompiledError):
            kernel.get(1)
        patient.start()
        patient.join(0.05)
        assert not found
    patient.join()
    assert found == [1001]


def test_a_form_that_was_missing_is_looked_for_again_once_it_has_appeared():
    forms, disk = Forms(), set[int]()
    kernel = Kernel(forms, disk)
    with deferred():
        for _ in range(2):
            with pytest.raises(NotCompiledError) as missing:
                kernel.get(1)
            disk.add(1)
        forms.appeared([missing.value.form])
        assert kernel.get(1) == 1001


def test_who_asks_while_another_compiles_does_not_wait():
    forms, begin, go_on = Forms(), threading.Event(), threading.Event()
    kernel = Kernel(forms)
    make = kernel._make

    def slow(key: int) -> int:
        begin.set()
        go_on.wait()
        return make(key)

    get = forms.kernel(slow)
    thread = threading.Thread(target=get, args=(1,))
    thread.start()
    begin.wait()
    with deferred(), pytest.raises(NotCompiledError):
        get(2)
    go_on.set()
    thread.join()
    assert [key for key, _ in kernel.compiled] == [1]


def test_there_are_no_more_forms_than_the_limit():
    kernel = Kernel(Forms(limit=3))
    made = [kernel.get(key) for key in range(3)]
    with pytest.raises(NotCompiledError):
        kernel.get(3)
    assert [kernel.get(key) for key in range(3)] == made
