"""Locks by name."""

import threading

from groupconv_server.layers.named_locks import NamedLocks


def test_one_name_is_held_once_and_others_meanwhile():
    locks, order = NamedLocks(), []
    held, release = threading.Event(), threading.Event()

    def first():
        with locks.of("a"):
            held.set()
            release.wait(60)
            order.append("first")

    def second():
        with locks.of("a"):
            order.append("second")

    threads = [threading.Thread(target=f) for f in (first, second)]
    threads[0].start()
    assert held.wait(60)
    threads[1].start()
    with locks.of("b"):
        assert order == []
    release.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "second"]
    assert len(locks) == 0
