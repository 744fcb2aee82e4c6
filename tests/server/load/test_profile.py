"""Profiles of loads, shipped and broken."""

import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server.load.profile import read_profile, shipped_profiles


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_are_valid(name):
    assert read_profile(name).mix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mix: []", "mix: expected"),
        ("mix: [{layer: nosuch}]", "nosuch"),
        ("mix: [{layer: alexnet_conv2, weight: 0}]", r"mix\.0\.weight"),
        ("mix: [{layer: alexnet_conv2, transport: stream, resident: true}]", "a stream carries its weights"),
        ("mix: [{layer: alexnet_conv2}, {layer: alexnet_conv2}]", "differ"),
        ("users: 3\nrtae: 4\nmix: [{layer: alexnet_conv2}]", "rtae"),
        ("mix: [", "expected YAML"),
    ],
)
def test_a_wrong_profile_is_refused_by_its_field(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InvalidArgumentError, match=said):
        read_profile(str(tmp_path / "p.yaml"))


def test_a_missing_profile_names_those_that_ship():
    with pytest.raises(InvalidArgumentError, match="mix, soak"):
        read_profile("no-such-profile")
