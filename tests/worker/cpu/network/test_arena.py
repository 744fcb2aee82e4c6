"""Tensors in one arena: those that are alive together share no byte."""

from hypothesis import given
from hypothesis import strategies as st

from groupconv_worker.cpu.network.arena import ALIGNMENT, Lifetime, place


@st.composite
def lifetimes(draw: st.DrawFn) -> Lifetime:
    first = draw(st.integers(0, 20))
    return Lifetime(draw(st.integers(0, 1000)), first, first + draw(st.integers(0, 10)))


@given(st.lists(lifetimes(), max_size=30))
def test_tensors_alive_together_share_no_byte(tensors: list[Lifetime]) -> None:
    offsets, size = place(tensors)
    for i, (a, a_at) in enumerate(zip(tensors, offsets, strict=True)):
        assert a_at % ALIGNMENT == 0
        assert a_at + a.nbytes <= size
        for b, b_at in list(zip(tensors, offsets, strict=True))[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a_at + a.nbytes <= b_at or b_at + b.nbytes <= a_at or not a.nbytes or not b.nbytes


def test_a_chain_needs_two_tensors() -> None:
    _, size = place([Lifetime(640, i, i + 1) for i in range(50)])
    assert size == 2 * 640
