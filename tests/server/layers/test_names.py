"""Names of layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.errors import InvalidArgumentError
from groupconv_server.layers.names import LONGEST, check_name, legal_name, numbered, shown


@given(text=st.text(max_size=600))
def test_any_text_becomes_a_legal_name(text):
    assert check_name(legal_name(text))


@given(name=st.text("ab./", min_size=1, max_size=300).map(legal_name), count=st.integers(2, 12))
def test_numbers_keep_names_apart_and_legal(name, count):
    taken: set[str] = set()
    names = [numbered(name, taken) for _ in range(count)]
    assert names[0] == name
    assert len({check_name(n) for n in names}) == count


@pytest.mark.parametrize("name", ["", "/", "a//b", "a/", "..", "a/../b", "ü", "a b", "a" * (LONGEST + 1)])
def test_other_names_are_refused(name):
    with pytest.raises(InvalidArgumentError, match="name: expected segments"):
        check_name(name)


def test_a_long_name_is_cut_in_messages():
    assert len(shown("a" * 10_000)) < 50
