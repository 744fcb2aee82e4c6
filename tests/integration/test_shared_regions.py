"""Places in shared memory as a caller may name them on the wire: what is no place of hers is refused."""

import numpy as np
import pytest

from groupconv import ConvSpec
from groupconv.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from groupconv.memory.arena import FOLDER, Segment
from groupconv.v1 import tensor_pb2
from groupconv.wire.tensors import to_wire
from groupconv_server.executors.local import LocalExecutor
from raw_client import Raw, at, x_at

SPEC = ConvSpec(padding=1, groups=8)
F32 = np.dtype(np.float32)


@pytest.fixture
def raw(near):
    return Raw(near)


@pytest.fixture
def registered(raw):
    segment = Segment(4096)
    yield segment, raw.register(segment.name, segment.size, segment.proof)
    segment.unlink()


@pytest.mark.parametrize(
    ("offset", "size", "field"),
    [
        (4096, 16, "input.place.offset"),
        (4097, 16, "input.place.offset"),
        (2**63 - 1, 16, "input.place.offset"),
        (-1, 16, "input.place.offset"),
        (4084, 16, "input.place.byte_size"),
        (0, 4097, "input.place.byte_size"),
        (16, 2**63 - 1, "input.place.byte_size"),
        (0, -1, "input.place.byte_size"),
        (0, 12, "input.place.byte_size"),
    ],
)
def test_places_that_cannot_be(raw, registered, offset, size, field):
    with pytest.raises(InvalidArgumentError) as caught:
        raw.convolve(x_at(registered[1], offset, size))
    assert caught.value.field == field
    assert raw.convolve(x_at(registered[1], 0, 16)).output.shape == [1, 1, 4]


@pytest.mark.parametrize(("offset", "size"), [(4096, 16), (2**63 - 1, 16), (0, 4097), (16, 2**63 - 1), (-1, 16)])
def test_places_of_outputs_that_cannot_be(raw, registered, offset, size):
    place = at(registered[1], offset, size)
    with pytest.raises(InvalidArgumentError, match="output_place"):
        raw.convolve(to_wire(np.ones((1, 1, 4), np.float32)), place)


def test_an_output_where_its_input_is_or_not_aligned_is_refused(raw, registered):
    for offset in (0, 12, 66):
        with pytest.raises(InvalidArgumentError, match="output_place"):
            raw.convolve(
                x_at(registered[1], 0, 16), tensor_pb2.Place(region=registered[1], offset=offset, byte_size=16)
            )


def test_an_output_that_is_larger_than_its_place_comes_in_the_message(raw, registered):
    answer = raw.convolve(x_at(registered[1], 0, 16), at(registered[1], 64, 15))
    assert len(answer.output.data) == 16
    assert not answer.output.HasField("place")


def test_an_input_that_is_not_aligned_is_copied(raw, registered):
    assert len(raw.convolve(x_at(registered[1], 3, 16)).output.data) == 16


def test_a_tensor_is_in_one_place(raw, registered):
    both = x_at(registered[1], 0, 16)
    both.data = bytes(16)
    with pytest.raises(InvalidArgumentError, match="none beside data"):
        raw.convolve(both)


def test_regions_are_known_to_those_who_were_told(sharing, raw, registered):
    segment, region = registered
    assert region != segment.name
    for name in ("", segment.name, region[:-1], region[::-1], "a" * 10_000):
        with pytest.raises(NotFoundError) as caught:
            raw.convolve(x_at(name, 0, 16))
        assert region not in str(caught.value)
        assert len(str(caught.value)) < 500
    raw.unregister(region)
    raw.unregister(region)
    with pytest.raises(NotFoundError):
        raw.convolve(x_at(region, 0, 16))


def test_an_object_is_registered_by_who_can_read_it(raw):
    segment = Segment(4096)
    try:
        with pytest.raises(FailedPreconditionError):
            raw.register(segment.name, 4096, bytes(32))
        assert (FOLDER / segment.name).exists()  # nobody else can have it removed
        for name, size, proof, field in (
            (segment.name, 4097, segment.proof, "byte_size"),
            (segment.name, 0, segment.proof, "byte_size"),
            (segment.name, -1, segment.proof, "byte_size"),
            (segment.name, 4096, b"", "proof"),
            ("/" + segment.name, 4096, segment.proof, "name"),
            ("../" + segment.name, 4096, segment.proof, "name"),
            ("groupconv-client-..", 4096, segment.proof, "name"),
            ("plasma", 4096, segment.proof, "name"),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                raw.register(name, size, proof)
            assert caught.value.field == field, name
    finally:
        segment.unlink()
    with pytest.raises(FailedPreconditionError):
        raw.register(segment.name, 4096, segment.proof)


def test_a_link_is_not_followed(raw):
    name = "groupconv-client-" + "0" * 32
    link = FOLDER / name
    link.symlink_to("/etc/hostname")
    try:
        with pytest.raises(FailedPreconditionError):
            raw.register(name, 8, bytes(32))
    finally:
        link.unlink()


def test_a_region_unregistered_during_a_request_ends_with_it(raw, registered, monkeypatch):
    segment, region = registered
    run = LocalExecutor.run

    def meanwhile(self, tasks, **options):
        raw.unregister(region)
        return run(self, tasks, **options)

    monkeypatch.setattr(LocalExecutor, "run", meanwhile)
    slot = segment.allocate(64)
    slot.array(F32, (4,))[...] = [1, 2, 3, 4]
    other = segment.allocate(64)
    answer = raw.convolve(x_at(region, slot.offset, 16), at(region, other.offset, 64))
    assert answer.output.HasField("place")
    assert other.array(F32, (4,)).tolist() == [1, 2, 3, 4]


def test_without_leave_nothing_is_read(client):
    raw = Raw(client)
    with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
        raw.convolve(x_at("a", 0, 16))
    with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
        raw.convolve(to_wire(np.ones((1, 1, 4), np.float32)), at("a", 0, 16))
    with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
        raw.unregister("a")


def test_triton_clients_cannot_name_or_list_it(sharing, registered):
    """Their regions are a table of their own, and objects of this service's clients cannot be registered there."""
    segment, region = registered
    assert region not in {r.name for r in sharing.shared_memory.regions()}
    with pytest.raises(InvalidArgumentError, match="key"):
        sharing.shared_memory.register("mine", segment.name, 0, 8, owner="ipv4:127.0.0.1:1")
