"""Files with tokens are readable by their user alone, and keep the mode that they were given."""

import os
import stat

import pytest
from typer.testing import CliRunner

from groupconv_server.access.tokens import digest_of
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
