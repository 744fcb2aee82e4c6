"""The mix of docs/load-testing.md against 1, 2 and 4 workers: closed and open loop.

    python bench/load_workers.py [--executor ray] [--rate 40] [--plot docs/images/load.png]

Each server is warmed up by the mix for a few seconds first; one thread per worker.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

GROUPCONV = str(Path(sys.executable).with_name("groupconv"))


def summary(target: str, *arguments: str) -> str:
    """The last line of a load; what is wrong ends the bench."""
    command = [GROUPCONV, "load", "--profile", "mix", "--target", target, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if " answers in " in line]
    if not lines or " 0 wrong, 0 failed" not in lines[-1]:
        raise SystemExit(done.stdout + done.stderr)
    return lines[-1]


def main() -> None:
    """Serve and ask, once for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--rate", type=float, default=40, help="of the open loop")
    parser.add_argument("--plot", help="draw the last server's closed loop here")
    asked = parser.parse_args()
    for workers in asked.workers:
        serve = [GROUPCONV, "serve", "--port", "0", "--executor", asked.executor]
        serve += ["--workers", str(workers), "--threads", "1"]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, text=True) as server,
        ):
            try:
                lines = iter(server.stdout or ())
                target = next(found[1] for line in lines if (found := re.search(r"is serving .* on (\S+)$", line)))
                summary(target, "--seconds", "6")
                plot = ["--plot", asked.plot] if asked.plot and workers == asked.workers[-1] else []
                seconds = ["--seconds", str(asked.seconds)]
                print(f"{workers} {asked.executor}, closed: {summary(target, *seconds, *plot)}", flush=True)
                rate = ["--rate", str(asked.rate), "--clients", "64"]
                print(f"{workers} {asked.executor}, open:   {summary(target, *seconds, *rate)}", flush=True)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
