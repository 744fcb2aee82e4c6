"""The `groupconv` command. Without the server extra it says in one line what to install."""

import os
import sys


def main() -> None:
    """Run the command line."""
    try:
        from groupconv_server.cli.app import NAMES, app

        # a shell that asks for completions passes the words in a variable
        words = os.environ.get("COMP_WORDS", "").split() or sys.argv
        names = [name for name in words[1:2] if name in NAMES]
        if names != ["serve"]:  # whose log may have gRPC's lines; other commands report a failed call themselves
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        built = app(*names)
    except ModuleNotFoundError as error:
        sys.exit(f"groupconv: the command line needs {error.name}: pip install 'groupconv[server]'")
    built()


if __name__ == "__main__":
    main()
