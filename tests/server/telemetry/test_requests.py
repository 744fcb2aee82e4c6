"""What is counted of requests while others read it: nothing is lost, nothing is seen twice, no counter falls."""

import itertools
from concurrent.futures import ThreadPoolExecutor

from groupconv_server.telemetry.requests import Requests

THREADS, EACH = 4, 2000


class Asked:
    """A request whose messages weigh a byte in and two out."""

    bytes_in = bytes_out = 0


def values(requests: Requests, name: str) -> list[float]:
    return [s.value for family in requests.collect() for s in family.samples if s.name == name]


def test_a_reader_sees_every_request_once():
    requests = Requests((0.1, 1.0))
    series = requests.of("Convolve")

    def ask() -> None:
        for i in range(EACH):
            one = Asked()
            series.begun(one, 0.05)
            one.bytes_in += 1
            one.bytes_out += 2
            series.ended(one, "OK" if i % 2 else "NOT_FOUND", 0.5)

    seen = []
    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask) for _ in range(THREADS)]
        while not all(a.done() for a in asking):
            seen.append(series.read())
    for a in asking:
        a.result()
    total = THREADS * EACH
    seen.append(series.read())
    assert seen[-1] == (0, total, 2 * total)
    assert all(0 <= inside <= THREADS for inside, _, _ in seen)
    for (_, came, went), (_, later, more) in itertools.pairwise(seen):
        assert came <= later
        assert went <= more
    assert values(requests, "groupconv_requests_total") == [total / 2, total / 2]
    assert values(requests, "groupconv_request_duration_seconds_bucket") == [0, total, total]
    assert values(requests, "groupconv_request_receive_seconds_bucket") == [total, total, total]


def test_a_request_under_way_is_weighed_and_timed_before_its_end():
    requests = Requests((0.1, 1.0))
    series, one = requests.of("Convolve"), Asked()
    series.begun(one, 0.05)
    one.bytes_in = 7
    assert values(requests, "groupconv_requests_in_flight") == [1]
    assert values(requests, "groupconv_request_bytes_total") == [7]
    assert values(requests, "groupconv_request_receive_seconds_count") == [1]
    assert values(requests, "groupconv_request_duration_seconds_count") == [0]
