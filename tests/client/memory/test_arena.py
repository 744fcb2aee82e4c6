"""Arrays in a client's shared memory: whose bytes they are, and when they are anybody's again."""

import gc
import os
import stat
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.memory import arena as module
from groupconv.memory.arena import ALIGNMENT, FIRST, FOLDER, PROOF, Arena, Segment

F32 = np.dtype(np.float32)


def grown(arena, nbytes=FIRST, region="r"):
    segment = arena.begin_segment(nbytes)
    segment.unlink()
    arena.end_segment(segment, region)
    return segment


def test_an_object_is_its_users_alone_and_its_name_says_nothing():
    segments = [Segment(4096) for _ in range(2)]
    try:
        for segment in segments:
            path = FOLDER / segment.name
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.read_bytes()[:PROOF] == segment.proof
        assert len({s.name for s in segments} | {s.proof for s in segments}) == 4
    finally:
        for segment in segments:
            segment.unlink()
    assert not any((FOLDER / s.name).exists() for s in segments)


def test_a_name_that_is_taken_is_not_opened(monkeypatch):
    segment = Segment(4096)
    try:
        monkeypatch.setattr(module.secrets, "token_hex", lambda _: segment.name.removeprefix("groupconv-client-"))
        with pytest.raises(FileExistsError):
            Segment(4096)
    finally:
        segment.unlink()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40_000), st.integers(0, 1000)), max_size=60))
def test_parts_never_overlap_and_come_back(steps):
    arena = Arena(capacity=2**20)
    grown(arena, 2**20 - FIRST if FIRST < 2**20 else 2**20)
    held = []
    for take, size, which in steps:
        if take or not held:
            block = arena.allocate(size)
            if block is not None:
                array = block.array(np.dtype(np.uint8), (size,))
                array[...] = len(held) % 251
                held.append((array, len(held) % 251))
        else:
            del held[which % len(held)]
        for array, value in held:
            assert (array == value).all()
            assert array.ctypes.data % ALIGNMENT == 0
    del held
    array = None
    block = None
    assert arena.allocate(2**20) is not None  # in one piece again


def test_a_part_stays_for_as_long_as_any_view_of_it():
    arena = Arena()
    grown(arena)
    block = arena.allocate(4000)
    at = block.offset
    view = memoryview(block.array(F32, (10, 100))[3:, 5])
    del block
    gc.collect()
    assert arena.allocate(8).offset != at
    kept = np.asarray(view)
    del view
    assert arena.allocate(8).offset != at
    del kept
    assert arena.allocate(8).offset == at


def test_what_locate_it():
    arena, other = Arena(), Arena()
    segment = grown(arena)
    x = arena.allocate(4000).array(F32, (10, 100))
    assert arena.locate(x) == (segment, 0)
    assert arena.locate(x[2]) == (segment, 800)
    assert arena.locate(np.frombuffer(memoryview(x)[1:2].cast("B"), F32)) == (segment, 400)
    assert arena.locate(x[:, 1:]) is None  # with gaps
    assert arena.locate(x.copy()) is None
    assert other.locate(x) is None
    arena.retire(segment)
    assert arena.locate(x) is None


def test_nothing_is_taken_from_a_retired_segment():
    arena = Arena()
    segment = grown(arena)
    x = arena.allocate(400).array(F32, (100,))
    x[...] = 7
    arena.retire(segment)
    assert arena.allocate(8) is None
    assert list(arena.retired) == ["r"]
    assert (x == 7).all()


def test_it_grows_up_to_its_capacity_one_segment_at_a_time():
    arena = Arena(capacity=3 * FIRST)
    first = arena.begin_segment(8)
    assert arena.begin_segment(8) is None  # while another thread is at it
    beside = arena.begin_segment(8, concurrent=True)
    assert beside is not None
    for segment in (first, beside):
        segment.unlink()
        arena.end_segment(segment, "r")
    assert arena.begin_segment(2 * FIRST) is None
    third = arena.begin_segment(FIRST)
    third.unlink()
    arena.end_segment(third, None)  # the server did not take it
    assert arena.begin_segment(FIRST + 1) is None


def test_many_threads_take_and_give_back():
    arena = Arena()
    grown(arena)
    wrong = []

    def work(value):
        for _ in range(300):
            block = arena.allocate(50_000)
            if block is not None:
                array = block.array(np.dtype(np.uint8), (50_000,))
                array[...] = value
                if not (array == value).all():
                    wrong.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert arena.allocate(FIRST) is not None


def test_after_a_fork_nothing_is_written_again():
    """What the parent gave back would be written again by its next call, under the eyes of the child."""
    arena = Arena()
    grown(arena)
    x = arena.allocate(400).array(F32, (100,))
    child = os.fork()
    if not child:
        os._exit(arena.allocate(8) is not None or bool(arena.retired))
    assert os.waitpid(child, 0)[1] == 0
    assert arena.allocate(8) is None
    assert arena.locate(x) is None
