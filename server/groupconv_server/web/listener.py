"""The web port: an HTTP server in a thread with its own event loop."""

import asyncio
import shutil
import socket
import ssl
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

import uvicorn

from groupconv.errors import UnavailableError
from groupconv.transport.address import joined
from groupconv_server.access.tls import Certificates
from groupconv_server.access.tokens import Tokens
from groupconv_server.config import Config
from groupconv_server.web.app import application
from groupconv_server.web.connection import Connection
from groupconv_server.web.gateway import Gateway
from groupconv_server.web.kserve import KServe
from groupconv_server.web.methods import Methods

LINGER = 1
"""Seconds that the last answers have to be sent."""


class WebListener:
    """Serves the web port from `start` to `close`.

    Args:
        config: of the server.
        certificates: of the server; None is plaintext.
        tokens: who is admitted; None admits everybody.

    Attributes:
        target: the socket that the gRPC server has to listen on for it.
        url: of the page.

    Raises:
        UnavailableError: the port is taken.
    """

    def __init__(self, config: Config, certificates: Certificates | None, tokens: Tokens | None) -> None:
        self._config, self._certificates, self._tokens = config, certificates, tokens
        self._socket = _bound(config.host, config.web_port or 0)
        self._folder = Path(tempfile.mkdtemp(prefix="groupconv-web-"))  # mode 0700
        self.target = f"unix:{self._folder / 'grpc'}"
        scheme = "http" if certificates is None else "https"
        self.url = f"{scheme}://{joined(config.host, self._socket.getsockname()[1])}/"
        self._ready: Future[None] = Future()
        self._http: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Accept connections. The gRPC server listens already.

        Raises:
            Exception: whatever ended the thread before it could accept any.
        """
        self._thread.start()
        self._ready.result()

    def close(self) -> None:
        """End. Requests that run are given a moment."""
        if self._http is not None:
            self._http.should_exit = True
            self._thread.join()
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        config, limit = self._config, self._config.limits.message_bytes
        async with Gateway(self.target, limit, self._tokens) as gateway:
            self._http = uvicorn.Server(
                uvicorn.Config(
                    application(Methods(gateway, limit), KServe(gateway, limit), config),
                    loop="asyncio",
                    http=Connection,
                    ws="none",
                    lifespan="off",
                    log_config=None,  # the server's own
                    log_level="warning",
                    access_log=False,  # the audit log has the calls
                    proxy_headers=False,  # a caller may write what it likes there
                    server_header=False,
                    limit_concurrency=config.concurrency + config.queue,
                    timeout_graceful_shutdown=LINGER,
                    ssl_context_factory=None if self._certificates is None else self._context,
                )
            )
            self._http.config.load()  # here the certificates are read
            self._ready.set_result(None)
            await self._http.serve([self._socket])

    def _context(self, *_: object) -> ssl.SSLContext:
        assert self._certificates is not None
        return self._certificates.context()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in its backlog until they are accepted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UnavailableError(f"cannot listen on {joined(host, port)}: {error.strerror or error}") from None
    # Its connections inherit it. Without it an answer's second packet waits 40 ms for the first one's acknowledgment.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
