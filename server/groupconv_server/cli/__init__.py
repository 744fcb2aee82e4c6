"""The command line, one file for each command."""

from groupconv_server.cli.app import app

__all__ = ["app"]
