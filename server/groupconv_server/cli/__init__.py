"""The command line: `groupconv serve | worker | demo | conv | plan | status | load | warmup | bench`, one file each."""

from groupconv_server.cli.app import app

__all__ = ["app"]
