"""Tokens and their rates, without a server."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, UnauthenticatedError
from groupconv_server.access import tokens as module
from groupconv_server.access.rates import Allowance, Bucket, CallerLimits
from groupconv_server.access.tokens import Tokens, digest_of, entry_text, new_token, parsed

ALICE, BOB = new_token(), new_token()


def bearer(token):
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(entry_text("alice", ALICE, CallerLimits()) + entry_text("bob", BOB, CallerLimits(concurrent=1)))
    return path


def test_each_token_is_known_by_its_name(file):
    tokens = Tokens(file)
    assert tokens.caller(bearer(ALICE)).name == "alice"
    assert tokens.caller([("authorization", f"bearer {BOB}")]).rates.concurrent == 1


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {ALICE}")],
        [("authorization", ALICE)],
        [*bearer(ALICE), *bearer(ALICE)],
        bearer(ALICE[:-1]),
        bearer(ALICE + "x"),
        bearer(ALICE.swapcase()),
        bearer(digest_of(ALICE)),
        bearer("é" * 40),
        bearer("\udc80"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(file, metadata):
    with pytest.raises(UnauthenticatedError) as refused:
        Tokens(file).caller(metadata)
    assert ALICE[:8] not in str(refused.value)


def test_every_digest_is_compared_whole_whichever_matches(file, monkeypatch):
    compared = []
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    tokens = Tokens(file)
    for token in (ALICE, BOB):
        tokens.caller(bearer(token))
        assert [a for a, _ in compared] == [digest_of(ALICE), digest_of(BOB)]
        compared.clear()


def test_the_file_holds_no_token(file):
    assert ALICE not in file.read_text()
    assert BOB not in file.read_text()


def test_a_change_of_the_file_counts_at_once_and_junk_changes_nothing(file, caplog):
    tokens, carol = Tokens(file), new_token()
    kept = tokens.caller(bearer(ALICE))
    file.write_text(entry_text("alice", ALICE, CallerLimits()) + entry_text("carol", carol, CallerLimits()))
    assert tokens.caller(bearer(carol)).name == "carol"
    with pytest.raises(UnauthenticatedError):
        tokens.caller(bearer(BOB))
    assert tokens.caller(bearer(ALICE)) is kept  # with what it has used
    file.write_text("[carol")
    assert tokens.caller(bearer(carol)).name == "carol"
    assert "those read before stay" in caplog.text
    file.unlink()
    assert tokens.caller(bearer(carol)).name == "carol"
    replaced = file.with_name("new")
    replaced.write_text(entry_text("carol", carol, CallerLimits(concurrent=3)))
    replaced.replace(file)
    assert tokens.caller(bearer(carol)).rates.concurrent == 3


def test_reload_reads_a_file_that_seems_unchanged(file, caplog):
    tokens, carol, before = Tokens(file), new_token(), file.stat()
    file.write_text(file.read_text().replace(digest_of(BOB), digest_of(carol)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UnauthenticatedError):
        tokens.caller(bearer(carol))
    with caplog.at_level("INFO"):
        tokens.reload()
    assert "2 tokens" in caplog.text
    assert tokens.caller(bearer(carol)).name == "bob"
    file.write_text("[bob")
    tokens.reload()
    assert "those read before stay" in caplog.text
    assert tokens.caller(bearer(carol)).name == "bob"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("alice = 1", "alice"),
        ("[alice]", "alice.sha256"),
        ('[alice]\nsha256 = "abc"', "alice.sha256"),
        ("[alice]\nsha256 = 5", "alice.sha256"),
        ('["../alice"]\nsha256 = "' + "0" * 64 + '"', "../alice"),
        ('[alice]\nsha256 = "' + "0" * 64 + '"\nrequest_per_second = 5', "alice.request_per_second"),
        ('[alice]\nsha256 = "' + "0" * 64 + '"\nconcurrent = 0', "alice.concurrent"),
        ('[alice]\nsha256 = "' + "0" * 64 + '"\nconcurrent = true', "alice.concurrent"),
        ('[alice]\nsha256 = "' + "0" * 64 + '"\nbytes_per_second = nan', "alice.bytes_per_second"),
        ("[alice", ""),
        pytest.param("alice = " + "[" * 100_000, "nested too deeply", id="nested"),
    ],
)
def test_a_bad_file_is_refused_and_says_where(tmp_path, text, names):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(FailedPreconditionError, match="--tokens ") as refused:
        Tokens(path)
    assert names in str(refused.value)
    with pytest.raises(FailedPreconditionError):
        Tokens(tmp_path / "none.toml")


def test_a_token_that_could_be_guessed_gets_no_entry():
    with pytest.raises(InvalidArgumentError, match="token: expected at least 32"):
        entry_text("alice", "hunter2", CallerLimits())
    with pytest.raises(InvalidArgumentError, match="name"):
        entry_text("a b", ALICE, CallerLimits())


@given(
    rates=st.builds(
        CallerLimits,
        st.none() | st.floats(1e-3, 1e9),
        st.none() | st.floats(1, 1e15),
        st.none() | st.integers(1, 10**6),
    )
)
def test_an_entry_is_read_as_it_was_written(rates):
    assert parsed(entry_text("alice", ALICE, rates))["alice"].rates == rates


@given(rate=st.floats(0.1, 1e3), asks=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 50)), max_size=40))
def test_no_caller_gets_more_than_rate_and_burst(rate, asks):
    now = 0.0
    bucket = Bucket(rate, burst=rate, clock=lambda: now)
    granted = 0.0
    for pause, amount in asks:
        now += pause
        if bucket.wait_for(amount) == 0:
            bucket.spend(amount)
            granted += amount
    assert granted <= (rate + rate * now) * (1 + 1e-9)


@given(rate=st.floats(0.1, 1e3), debt=st.floats(0, 1e4))
def test_after_the_wait_it_says_there_is_enough(rate, debt):
    now = 0.0
    bucket = Bucket(rate, burst=1, clock=lambda: now)
    bucket.spend(debt)
    now += bucket.wait_for(1) * (1 + 1e-9) + 1e-9
    assert bucket.wait_for(1) <= 1e-6


def test_each_limit_refuses_with_the_time_to_wait():
    at_a_time = Allowance("alice", CallerLimits(concurrent=1))
    at_a_time.enter()
    with pytest.raises(ResourceExhaustedError, match="token alice: over its limit of 1 requests at a time") as refused:
        at_a_time.enter()
    assert refused.value.retry_after > 0
    at_a_time.leave()
    at_a_time.enter()

    often = Allowance("alice", CallerLimits(requests_per_second=0.5))
    often.enter()
    with pytest.raises(ResourceExhaustedError, match=r"0\.5 requests per second") as refused:
        often.enter()
    assert 0 < refused.value.retry_after <= 2

    heavy = Allowance("alice", CallerLimits(bytes_per_second=1000))
    heavy.enter()
    assert heavy.spend(500) == 0
    assert 3 < heavy.spend(4500) <= 4
    with pytest.raises(ResourceExhaustedError, match="1000 bytes per second") as refused:
        heavy.enter()
    assert 3 < refused.value.retry_after <= 4


def test_callers_in_parallel_never_exceed_their_count():
    allowance, inside, most = Allowance("alice", CallerLimits(concurrent=3)), [0], [0]
    lock = threading.Lock()

    def work():
        for _ in range(300):
            try:
                allowance.enter()
            except ResourceExhaustedError:
                continue
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            allowance.leave()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 3
