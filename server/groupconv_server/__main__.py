"""The `groupconv` command. Without the server extra it says in one line what to install."""

import os
import sys
from importlib.metadata import version

POLLER = "GRPC_EXPERIMENTS", "-event_engine_poller_for_python"
"""A variable and its value, with which the thread that takes a server's events reads its sockets, too."""


def main() -> None:
    """Run the command line."""
    try:
        # a shell that asks for completions passes the words in a variable
        words = os.environ.get("COMP_WORDS", "").split() or sys.argv
        if words[1:2] == ["serve"]:  # whose log may have gRPC's lines; other commands report a failed call themselves
            choose_poller()
        else:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")

        from groupconv_server.cli.app import NAMES, app  # imports gRPC, which reads its variables then

        built = app(*(name for name in words[1:2] if name in NAMES))
    except ModuleNotFoundError as error:
        sys.exit(f"groupconv: the command line needs {error.name}: pip install 'groupconv[server]'")
    built()


def choose_poller() -> None:
    """Have gRPC read sockets in fewer threads, unless the caller has set the variable. Call it before gRPC is imported.

    gRPC's own threads for that pass each piece of a message on: a call with 3 MB took 25 switches of threads instead
    of 12, and a third more processor time. From 1.83 on gRPC has no choice.
    """
    major, minor = version("grpcio").split(".")[:2]
    if (int(major), int(minor)) < (1, 83):
        os.environ.setdefault(*POLLER)


if __name__ == "__main__":
    main()
