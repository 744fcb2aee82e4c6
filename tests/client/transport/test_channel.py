"""What a channel is opened with."""

import numpy as np
import pytest

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv.transport.channel import MOST_BYTES, Connection


@pytest.mark.parametrize("limit", [0, -1, True, 1e6, "1", np.inf, MOST_BYTES + 1])
def test_a_limit_of_messages_that_cannot_be(limit):
    with pytest.raises(InvalidArgumentError, match="max_message_bytes: expected an integer from 1 to 2147483647"):
        groupconv.connect("localhost:1", max_message_bytes=limit)


@pytest.mark.parametrize("limit", [1, MOST_BYTES - 1, MOST_BYTES])
def test_a_channel_opens_with_every_limit_that_can_be(limit):
    with Connection("localhost:1", max_message_bytes=limit).open():
        pass
