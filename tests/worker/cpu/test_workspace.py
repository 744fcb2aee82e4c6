"""Scratch memory."""

import threading

import numpy as np

from groupconv_worker.cpu.workspace import BufferPool, ScratchArray


def test_a_destructor_takes_no_lock():
    """A garbage collection may end a `ScratchArray` in the thread that is inside `take`."""
    buffers = BufferPool()
    room = [ScratchArray(buffers, 100, np.dtype(np.float32))]

    def collected_within_take() -> None:
        with buffers._lock:
            room.clear()

    thread = threading.Thread(target=collected_within_take, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert buffers.take(400).bytes == 400


def test_few_buffers_are_kept():
    buffers = BufferPool()
    taken = [buffers.take(64 * (i + 1)) for i in range(3 * BufferPool.KEPT)]
    for buffer in taken:
        buffers.give(buffer)
    buffers.give(buffers.take(1))
    assert len(buffers._free) + len(buffers._returned) <= BufferPool.KEPT + 1
