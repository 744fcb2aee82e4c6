"""The web port where it is configured and its libraries are installed."""

from typing import TYPE_CHECKING

from groupconv.errors import FailedPreconditionError
from groupconv_server.access.tls import Certificates
from groupconv_server.access.tokens import Tokens
from groupconv_server.config import Config

if TYPE_CHECKING:
    from groupconv_server.web.listener import WebListener


def web_listener(config: Config, certificates: Certificates | None, tokens: Tokens | None) -> "WebListener | None":
    """The listener that a server's configuration names, or None.

    Raises:
        FailedPreconditionError: a library is not installed.
        UnavailableError: the port is taken.
    """
    if config.web_port is None:
        return None
    try:
        from groupconv_server.web.listener import WebListener
    except ModuleNotFoundError as error:
        raise FailedPreconditionError(f"--web-port needs {error.name}: pip install 'groupconv[web]'") from None
    return WebListener(config, certificates, tokens)
