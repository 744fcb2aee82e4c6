"""Registering and letting go take their time: no request waits for them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from groupconv.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from groupconv_server.memory.regions import MAX_REGIONS, Region, Regions

ME, ANOTHER = "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"


@pytest.fixture
def regions():
    here = Regions(capacity=1000, gone=lambda owners: owners - {ME})
    yield here
    here.close()


@pytest.fixture
def slow(regions):
    """A region of 600 bytes that is being made for as long as the test runs."""
    begun, end = threading.Event(), threading.Event()

    def make():
        begun.set()
        assert end.wait(60)
        return Region("slow", 600, ME)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(regions._add, "slow", 600, make)
        assert begun.wait(60)
        yield
        end.set()
        coming.result()
    assert regions.part("slow", 0, 600).size == 600


@pytest.mark.usefixtures("slow")
def test_others_register_use_and_let_go_while_a_region_is_being_made(regions):
    regions._add("a", 100, lambda: Region("a", 100, ME))
    assert regions.part("a", 10, 90).name == "a"
    assert [region.name for region in regions.regions()] == ["a"]
    regions.unregister("a")
    regions.unregister_all(ANOTHER)


@pytest.mark.usefixtures("slow")
def test_one_that_is_being_made_has_its_name_and_its_bytes_and_is_not_there(regions):
    with pytest.raises(AlreadyExistsError):
        regions._add("slow", 1, lambda: Region("slow", 1, ME))
    with pytest.raises(ResourceExhaustedError):
        regions._add("a", 401, lambda: Region("a", 401, ME))
    with pytest.raises(NotFoundError):
        regions.part("slow", 0, 1)


def test_one_that_cannot_be_made_leaves_its_name_and_its_bytes(regions):
    def fail():
        raise ResourceExhaustedError("no memory")

    for _ in range(MAX_REGIONS + 1):
        with pytest.raises(ResourceExhaustedError, match="no memory"):
            regions._add("a", 1000, fail)
    regions._add("a", 1000, lambda: Region("a", 1000, ME))


def test_those_who_have_gone_make_room(regions):
    regions._add("theirs", 1000, lambda: Region("theirs", 1000, ANOTHER))
    regions._add("mine", 1000, lambda: Region("mine", 1000, ME))
    assert [region.name for region in regions.regions()] == ["mine"]


@pytest.mark.parametrize("end", ["unregister", "unregister_all", "close", "replaced"])
def test_memory_is_let_go_where_no_lock_is_held(regions, end):
    free = []

    class Memory(Region):
        """A finalizer stands for the kernel, which takes long to unmap."""

        def __del__(self):
            free.append(regions._lock.acquire(timeout=10))
            regions._lock.release()

    regions._add("a", 1000, lambda: Memory("a", 1000, ANOTHER))
    match end:
        case "unregister":
            regions.unregister("a")
        case "unregister_all":
            regions.unregister_all(ANOTHER)
        case "close":
            regions.close()
        case "replaced":
            regions._add("a", 1000, lambda: Region("a", 1000, ME))
    assert free == [True]
