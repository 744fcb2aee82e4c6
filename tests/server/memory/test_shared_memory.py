"""Regions of shared memory: nothing a client says of them, or does to them, is trusted."""

import gc
import os
import time
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory as Object
from pathlib import Path

import numpy as np
import pytest

from groupconv.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv_server.memory.shared_memory import FOLDER, RESERVED, SharedMemory

ME, ANOTHER = "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"


@contextmanager
def region_object(size=4096):
    theirs = Object(create=True, size=size)
    try:
        yield theirs
    finally:
        theirs.close()
        theirs.unlink()


@pytest.fixture
def theirs():
    with region_object() as made:
        yield made


@pytest.fixture
def shared():
    here = SharedMemory(capacity=2**20, gone=lambda owners: set())
    yield here
    here.close()


def mapped(theirs):
    """How often this process maps the object; the test's own mapping is one."""
    return Path("/proc/self/maps").read_text().count(f"/dev/shm/{theirs.name}\n")


def test_a_view_is_the_clients_memory(shared, theirs):
    shared.register("a", "/" + theirs.name, 16, 4080, owner=ME)
    x = np.frombuffer(shared.view("a", 8, 8), np.float32)
    theirs.buf[24:32] = np.array([1, 2], np.float32).tobytes()
    assert x.tolist() == [1, 2]
    x[0] = 5
    assert np.frombuffer(bytes(theirs.buf[24:28]), np.float32) == [5]


@pytest.mark.parametrize(
    ("offset", "size", "field"),
    [
        (4096, 1, "offset"),
        (5000, 1, "offset"),
        (2**62, 1, "offset"),
        (2**64 - 1, 2, "offset"),
        (-1, 1, "offset"),
        (0, 4097, "byte_size"),
        (1, 4096, "byte_size"),
        (8, 2**63 - 1, "byte_size"),
        (8, 2**64 - 8, "byte_size"),
        (0, 0, "byte_size"),
        (0, -1, "byte_size"),
    ],
)
def test_parts_the_object_does_not_have_are_not_registered(shared, theirs, offset, size, field):
    with pytest.raises(InvalidArgumentError) as caught:
        shared.register("a", theirs.name, offset, size, owner=ME)
    assert caught.value.field == field
    assert not shared.regions()
    assert mapped(theirs) == 1


@pytest.mark.parametrize(
    ("offset", "size", "field"),
    [
        (100, 1, "shared_memory_offset"),
        (101, 0, "shared_memory_offset"),
        (2**63, 1, "shared_memory_offset"),
        (-1, 1, "shared_memory_offset"),
        (0, 101, "shared_memory_byte_size"),
        (99, 2, "shared_memory_byte_size"),
        (1, 2**64 - 1, "shared_memory_byte_size"),
        (0, -1, "shared_memory_byte_size"),
    ],
)
def test_parts_a_region_does_not_have_are_not_viewed(shared, theirs, offset, size, field):
    """The object goes on behind the region: what is there is not the region's."""
    shared.register("a", theirs.name, 8, 100, owner=ME)
    with pytest.raises(InvalidArgumentError) as caught:
        shared.view("a", offset, size)
    assert caught.value.field == field
    assert len(shared.view("a", 99, 1)) == 1


@pytest.mark.parametrize(
    "key",
    ["", "/", "//a", "a/b", "/a/b", "/../etc/passwd", "..", "/.", "a\0b", "a b", "ä", "x" * 300]
    + [beginning + "x" for beginning in RESERVED],
)
def test_keys_that_are_paths_or_the_services_own(shared, key):
    with pytest.raises(InvalidArgumentError) as caught:
        shared.register("a", key, 0, 1, owner=ME)
    assert caught.value.field == "key"
    assert caught.value.got != key


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "x" * 257])
def test_names_that_cannot_be(shared, theirs, name):
    with pytest.raises(InvalidArgumentError, match="name: expected"):
        shared.register(name, theirs.name, 0, 1, owner=ME)


def test_what_is_not_a_plain_object_is_not_there_and_the_message_names_no_key(shared):
    link, folder, pipe = (FOLDER / f"test-{os.getpid()}-{kind}" for kind in ("link", "folder", "pipe"))
    link.symlink_to("/etc/hostname")
    folder.mkdir()
    os.mkfifo(pipe)
    try:
        for path in (link, folder, pipe, FOLDER / "no-such-object"):
            with pytest.raises(NotFoundError) as caught:
                shared.register("a", path.name, 0, 1, owner=ME)
            assert path.name not in str(caught.value)
            assert "'a'" in str(caught.value)
    finally:
        link.unlink()
        folder.rmdir()
        pipe.unlink()


def test_a_region_unregistered_during_a_request_ends_with_it(shared, theirs):
    shared.register("a", theirs.name, 0, 4096, owner=ME)
    x = np.frombuffer(shared.view("a", 0, 4096), np.uint8)
    shared.unregister("a")
    with pytest.raises(NotFoundError):
        shared.view("a", 0, 1)
    assert mapped(theirs) == 2
    theirs.buf[7] = 9
    assert x[7] == 9
    del x
    gc.collect()
    assert mapped(theirs) == 1
    shared.unregister("a")  # again, by a client that is not sure


def test_a_name_is_taken_until_it_is_unregistered(shared, theirs):
    shared.register("a", theirs.name, 0, 8, owner=ME)
    with pytest.raises(AlreadyExistsError):
        shared.register("a", theirs.name, 0, 8, owner=ANOTHER)
    shared.unregister("a")
    shared.register("a", theirs.name, 0, 16, owner=ANOTHER)
    assert [r.size for r in shared.regions("a")] == [16]


def test_unregister_all_is_of_the_callers_regions(shared, theirs):
    for name, owner in (("a", ME), ("b", ANOTHER), ("c", ME)):
        shared.register(name, theirs.name, 0, 8, owner=owner)
    shared.unregister_all(ME)
    assert [r.name for r in shared.regions()] == ["b"]


def test_an_object_made_smaller_is_refused_and_not_touched(shared, theirs):
    shared.register("a", theirs.name, 0, 4096, owner=ME)
    os.truncate(FOLDER / theirs.name, 0)
    with pytest.raises(InvalidArgumentError, match="smaller one"):
        shared.view("a", 0, 8)
    os.truncate(FOLDER / theirs.name, 4096)
    assert bytes(shared.view("a", 0, 8)) == bytes(8)


def test_all_regions_together_are_limited(shared):
    with region_object(2**20) as large:
        shared.register("a", large.name, 0, 2**19, owner=ME)
        with pytest.raises(ResourceExhaustedError, match="1 MiB"):
            shared.register("b", large.name, 0, 2**20, owner=ME)
        shared.register("b", large.name, 2**19, 2**19, owner=ME)


def test_pages_that_cannot_be_had_are_refused_at_registration():
    """An object may promise more than the machine has; to write such a page would end the process."""
    there = os.statvfs(FOLDER)
    huge = 2 * there.f_frsize * there.f_blocks
    shared = SharedMemory(capacity=2 * huge, gone=lambda owners: set())
    path = FOLDER / f"test-{os.getpid()}-sparse"
    path.touch()
    try:
        os.truncate(path, huge)
        with pytest.raises(ResourceExhaustedError):
            shared.register("a", path.name, 0, huge, owner=ME)
    finally:
        path.unlink()
        shared.close()


def test_regions_of_a_client_that_is_gone_are_released(theirs):
    alive = {ME, ANOTHER}
    shared = SharedMemory(grace=0, interval=0.01, gone=lambda owners: owners - alive)
    try:
        shared.register("a", theirs.name, 0, 8, owner=ME)
        shared.register("b", theirs.name, 0, 8, owner=ANOTHER)
        alive.discard(ME)
        limit = time.monotonic() + 30
        while len(shared.regions()) == 2 and time.monotonic() < limit:
            time.sleep(0.01)
        assert [r.name for r in shared.regions()] == ["b"]
    finally:
        shared.close()


def test_the_name_of_a_client_that_is_gone_is_free_at_once(theirs):
    alive = {ME}
    shared = SharedMemory(grace=3600, interval=3600, gone=lambda owners: owners - alive)
    try:
        shared.register("a", theirs.name, 0, 8, owner=ANOTHER)
        shared.register("a", theirs.name, 0, 16, owner=ME)
        assert [r.owner for r in shared.regions()] == [ME]
    finally:
        shared.close()
