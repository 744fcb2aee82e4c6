"""The `groupconv` command. Without the server extra it says in one line what to install."""

import os
import sys

from groupconv_server.poller import choose_poller


def main() -> None:
    """Run the command line."""
    try:
        # a shell that asks for completions passes the words in a variable
        words = os.environ.get("COMP_WORDS", "").split() or sys.argv
        if words[1:2] == ["serve"]:  # whose log may have gRPC's lines; other commands report a failed call themselves
            choose_poller()
            import groupconv_server.memory.kept  # noqa: F401 - before other libraries
        else:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")

        from groupconv_server.cli.app import NAMES, app  # imports gRPC, which reads its variables then

        built = app(*(name for name in words[1:2] if name in NAMES))
    except ModuleNotFoundError as error:
        sys.exit(f"groupconv: the command line needs {error.name}: pip install 'groupconv[server]'")
    built()


if __name__ == "__main__":
    main()
