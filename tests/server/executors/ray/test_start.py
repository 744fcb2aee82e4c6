"""What is looked at before Ray is started."""

import logging
from types import SimpleNamespace

import pytest

from groupconv_server.executors.ray import start


@pytest.mark.parametrize(("shared", "memory", "warned"), [(1, 8, True), (3, 8, False), (64, 8, False), (0, 8, True)])
def test_little_shared_memory_is_warned_of_with_what_to_do(monkeypatch, caplog, shared, memory, warned):
    monkeypatch.setattr(start.machine, "memory", lambda: memory * 2**30)
    monkeypatch.setattr(start.shutil, "disk_usage", lambda _: SimpleNamespace(total=shared * 2**30))
    with caplog.at_level(logging.WARNING):
        start.check_memory()
    assert bool(caplog.records) is warned
    if warned:
        assert f"/dev/shm has {shared}.0 GiB, less than 30 % of the 8.0 GiB of memory" in caplog.text
        assert "--shm-size 2g" in caplog.text


def test_a_token_that_the_operator_gave_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert start._authentication(tmp_path) == {"RAY_AUTH_MODE": "token"}
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    made = start._authentication(tmp_path)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")


def test_variables_are_set_for_the_start_alone_and_never_over_the_operator_s(monkeypatch):
    monkeypatch.setenv("GROUPCONV_TEST_A", "given")
    monkeypatch.delenv("GROUPCONV_TEST_B", raising=False)
    with start._variables({"GROUPCONV_TEST_A": "ours", "GROUPCONV_TEST_B": "ours"}):
        assert (start.os.environ["GROUPCONV_TEST_A"], start.os.environ["GROUPCONV_TEST_B"]) == ("given", "ours")
    assert start.os.environ["GROUPCONV_TEST_A"] == "given"
    assert "GROUPCONV_TEST_B" not in start.os.environ
