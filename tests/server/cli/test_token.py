"""Files with tokens are readable by their user alone, and keep the mode that they were given."""

import os
import stat
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from groupconv_server.access.tokens import digest_of, parsed
from groupconv_server.cli.app import app


@pytest.fixture
def open_umask():
    """The most permissive umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


def made(*arguments):
    return CliRunner().invoke(app("token"), ["token", "new", *map(str, arguments)])


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_are_for_their_user_alone(tmp_path, open_umask):
    entries, secret = tmp_path / "tokens.toml", tmp_path / "alice.token"
    done = made("alice", "--file", entries, "--output", secret)
    assert (done.exit_code, done.output) == (0, "")
    assert (mode(entries), mode(secret)) == (0o600, 0o600)
    assert digest_of(secret.read_text().strip()) in entries.read_text()


def test_a_file_that_is_there_keeps_its_mode_and_its_inode(tmp_path, open_umask):
    entries = tmp_path / "tokens.toml"
    assert made("alice", "--file", entries).exit_code == 0
    entries.chmod(0o640)
    inode = entries.stat().st_ino
    assert made("bob", "--file", entries).exit_code == 0
    assert (mode(entries), entries.stat().st_ino) == (0o640, inode)
    assert entries.read_text().count("sha256") == 2


def test_no_token_is_overwritten_or_lost(tmp_path):
    entries, secret = tmp_path / "tokens.toml", tmp_path / "alice.token"
    secret.write_text("another token")
    done = made("alice", "--file", entries, "--output", secret)
    assert done.exit_code != 0
    assert "alice.token" in done.output
    assert secret.read_text() == "another token"
    assert not entries.exists()  # no entry whose token nobody has


def test_an_output_without_an_entry_is_taken_away(tmp_path):
    entries = tmp_path / "tokens.toml"
    assert made("alice", "--file", entries).exit_code == 0
    before = entries.read_text()
    assert made("alice", "--file", entries, "--output", tmp_path / "second.token").exit_code != 0
    assert (entries.read_text(), (tmp_path / "second.token").exists()) == (before, False)


@pytest.mark.slow
def test_commands_at_the_same_time_all_have_their_entry(tmp_path):
    entries, secret = tmp_path / "tokens.toml", tmp_path / "one.token"
    command = [sys.executable, "-m", "groupconv_server", "token", "new", "--file", str(entries)]
    own = [subprocess.Popen([*command, f"caller-{i}"], stdout=subprocess.PIPE, text=True) for i in range(3)]
    same = [
        subprocess.Popen([*command, f"same-{i}", "--output", str(secret)], stderr=subprocess.PIPE) for i in range(2)
    ]
    tokens = [process.communicate(timeout=120)[0].strip() for process in own]
    for process in same:
        process.communicate(timeout=120)
    assert sorted(process.returncode for process in same) == [0, 1]  # one file, one token
    digests = {entry.sha256 for entry in parsed(entries.read_text()).values()}
    assert digests == {digest_of(token) for token in [*tokens, secret.read_text().strip()]}
