"""Requests are counted while others read the metrics: nothing is lost or seen twice, and no counter falls."""

import itertools
from concurrent.futures import ThreadPoolExecutor

from groupconv_server.telemetry.request import Request
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.traces import Traces

THREADS, EACH = 4, 500


class Context:
    """gRPC's context of a call that was given no status."""

    def set_trailing_metadata(self, metadata):
        pass

    def code(self):
        return None


def values(requests: Requests, name: str) -> list[float]:
    return [s.value for family in requests.collect() for s in family.samples if s.name == name]


def test_a_reader_sees_every_request_once():
    requests, traces = Requests((0.1, 1.0)), Traces()
    series = requests.of("Convolve")

    def ask() -> None:
        for _ in range(EACH):
            request = Request("Convolve", (), series, traces)
            request.begin(Context())
            series.bytes_in.inc(1)
            series.bytes_out.inc(2)
            request.end(Context(), "OK", active=True)

    seen = []
    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask) for _ in range(THREADS)]
        while not all(a.done() for a in asking):
            seen.append(
                (values(requests, "groupconv_requests_in_flight"), values(requests, "groupconv_requests_total"))
            )
    for a in asking:
        a.result()
    total = THREADS * EACH
    assert all(0 <= inside <= THREADS for (inside,), _ in seen)
    assert all(sum(a) <= sum(b) <= total for (_, a), (_, b) in itertools.pairwise(seen))
    assert values(requests, "groupconv_requests_in_flight") == [0]
    assert values(requests, "groupconv_requests_total") == [total]
    assert values(requests, "groupconv_request_bytes_total") == [total]
    assert values(requests, "groupconv_response_bytes_total") == [2 * total]
    assert values(requests, "groupconv_request_duration_seconds_count") == [total]
    assert values(requests, "groupconv_request_receive_seconds_count") == [total]


def test_a_request_under_way_is_weighed_and_timed_before_its_end():
    requests = Requests((0.1, 1.0))
    series = requests.of("Convolve")
    request = Request("Convolve", (), series, Traces())
    request.begin(Context())
    series.bytes_in.inc(7)
    assert values(requests, "groupconv_requests_in_flight") == [1]
    assert values(requests, "groupconv_request_bytes_total") == [7]
    assert values(requests, "groupconv_request_receive_seconds_count") == [1]
    assert values(requests, "groupconv_request_duration_seconds_count") == [0]
