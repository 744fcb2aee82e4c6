"""The HTTP application of the web port: which path is answered by what, and for which origins."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from groupconv.transport.address import is_loopback
from groupconv_server.config import Config
from groupconv_server.telemetry.request import ID_KEY
from groupconv_server.web.bodies import Bodies
from groupconv_server.web.headers import Headers
from groupconv_server.web.kserve import KServe
from groupconv_server.web.methods import SERVICES, Methods
from groupconv_server.web.rest_tensors import HEADER_LENGTH

PAGE = Path(__file__).with_name("page")
"""The built page. `make web` builds it from client/web."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")
REQUEST_HEADERS = (
    "authorization",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-type",
    "grpc-timeout",
    HEADER_LENGTH,
    ID_KEY,
    "traceparent",
    "tracestate",
    "x-grpc-web",
    "x-user-agent",
)
ANSWER_HEADERS = ("grpc-status", "grpc-message", "grpc-status-details-bin", HEADER_LENGTH, ID_KEY)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with the page: it loads nothing from elsewhere, and no other site shows it in a frame."""
ZIPPED = 1024
"""Bytes from which a file of the page is sent with gzip."""


class Page(StaticFiles):
    """The files of the page, each with `HEADERS`. Those under assets/ never change: their name has their hash."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The answer to a request of a file."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        fixed = path.startswith("assets/")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if fixed else "no-cache"
        return response


def application(methods: Methods, kserve: KServe, config: Config) -> Bodies:
    """Everything on the web port.

    Args:
        methods: of the API.
        kserve: the paths under /v2.
        config: of the server: its host, origins and limits.
    """
    routes: list[BaseRoute] = [Mount(f"/{service.full_name}", app=methods) for service in SERVICES]
    routes += kserve.routes()
    if PAGE.is_dir():
        pages = GZipMiddleware(Page(directory=PAGE, html=True), minimum_size=ZIPPED)
        routes.append(Mount("/", app=pages))
    app = Starlette(routes=routes, middleware=_middleware(config))
    return Bodies(Headers(app), config.queue_bytes, config.limits.stream_idle_seconds)


def _middleware(config: Config) -> list[Middleware]:
    middleware = []
    if is_loopback(config.host):
        # A site whose name is made to lead to 127.0.0.1 has the origin of this server; its Host header gives it away.
        names = [*LOCAL, *(urlsplit(origin).hostname or "" for origin in config.web_origins)]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False))
    if config.web_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=config.web_origins,
                allow_methods=["GET", "POST"],
                allow_headers=REQUEST_HEADERS,
                expose_headers=ANSWER_HEADERS,
                max_age=7200,
            )
        )
    return middleware
