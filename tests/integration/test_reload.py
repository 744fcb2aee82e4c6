"""SIGHUP: certificates and tokens are read again, a bad file leaves the old ones in force, and requests go on."""

import contextlib
import signal
import subprocess
import sys
import threading

import pytest
import trustme

import groupconv
from groupconv.errors import UnauthenticatedError, UnavailableError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token

X, W = [[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]


class Log:
    """The lines that a server writes, read by a thread; `await_line` returns once each of its processes wrote one."""

    def __init__(self, process):
        self._lines, self._more, self._seen = [], threading.Condition(), 0
        self._thread = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._more:
                self._lines.append(line)
                self._more.notify()

    def await_line(self, *texts, times=1):
        """The line that completes so many with each text, of those that come after the last one that was waited for."""

        def complete():
            missing = dict.fromkeys(texts, times)
            for i, line in enumerate(self._lines[self._seen :], self._seen + 1):
                missing = {text: n - (text in line) for text, n in missing.items()}
                if not any(n > 0 for n in missing.values()):
                    return i
            return 0

        with self._more:
            assert self._more.wait_for(complete, 60), "".join(self._lines)
            self._seen = complete()
            return self._lines[self._seen - 1]


@contextlib.contextmanager
def serving(*arguments):
    """`groupconv serve`: the process, its log, its address."""
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--engine", "reference", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        log = Log(process)
        yield process, log, log.await_line("groupconv is serving").split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def written(folder, authority):
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "server.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    (folder / "server.key").write_bytes(certificate.private_key_pem.bytes())


@pytest.mark.parametrize("processes", [1, 2])
def test_certificates_and_tokens_are_read_again_and_bad_files_change_nothing(tmp_path, processes):
    first, second = trustme.CA(), trustme.CA()
    alice, bob = new_token(), new_token()
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry_text("alice", alice, CallerLimits()))
    written(tmp_path, first)
    files = ("--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key", "--tokens", tokens)

    def ask(authority, token):
        root = authority.cert_pem.bytes()
        for _ in range(4**processes // 4):  # the kernel chooses the process of each connection
            with groupconv.connect(address, root_certificates=root, token=token, timeout=20) as client:
                assert client.conv1d(X, W).tolist() == [[[3.0, 5.0]]]

    with serving(*files, "--processes", processes) as (process, log, address):
        ask(first, alice)
        with groupconv.connect(address, root_certificates=first.cert_pem.bytes(), token=alice, timeout=20) as stands:
            stands.status()
            written(tmp_path, second)
            tokens.write_text(entry_text("alice", alice, CallerLimits()) + entry_text("bob", bob, CallerLimits()))
            process.send_signal(signal.SIGHUP)
            log.await_line("TLS: certificates read again", "2 tokens", times=processes)
            ask(second, bob)
            with pytest.raises(UnavailableError):
                ask(first, alice)
            stands.status()
            (tmp_path / "server.key").write_text("no key")
            tokens.write_text("[bob")
            process.send_signal(signal.SIGHUP)
            kept = "serving on with the certificate read before", "those read before stay"
            log.await_line(*kept, times=processes)
            ask(second, bob)
            with pytest.raises(UnauthenticatedError):
                ask(second, new_token())
            stands.status()


def test_a_server_with_nothing_to_read_again_serves_on_and_says_so():
    with serving() as (process, log, address), groupconv.connect(address, timeout=20) as client:
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            log.await_line("neither certificates nor tokens")
            assert client.conv1d(X, W).tolist() == [[[3.0, 5.0]]]
