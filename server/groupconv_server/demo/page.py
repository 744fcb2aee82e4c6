"""The page of the web port, with a server of two workers."""

import logging
import webbrowser

import typer

from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from groupconv_server.process import serve
from groupconv_server.server import Server


def open_page(executor: str) -> None:
    """Serve with two workers and open the page in the browser, until SIGTERM or SIGINT.

    Args:
        executor: ray or local.
    """

    def ready(server: Server | Supervisor) -> None:
        url = server.web_url
        assert url is not None
        typer.echo(f"groupconv shows its page on {url} (Ctrl-C ends it)")
        webbrowser.open(url)

    serve(Config(port=0, executor=executor, workers=2, threads=1, web_port=0), ready, ("console", logging.WARNING))
