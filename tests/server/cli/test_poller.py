"""What `groupconv serve` sets for gRPC before it is imported."""

import os
import subprocess
import sys

SERVE = (
    "from groupconv_server.__main__ import choose_poller; choose_poller(); import grpc;"
    "from concurrent.futures import ThreadPoolExecutor; grpc.server(ThreadPoolExecutor(1)).start();"
    "import os; print(os.environ.get('GRPC_EXPERIMENTS', ''))"
)


def started(**variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")} | variables
    return subprocess.run([sys.executable, "-c", SERVE], env=environment, capture_output=True, text=True, check=True)


def test_grpc_knows_what_it_is_asked_for():
    assert "Unknown experiment" not in started().stderr


def test_what_the_caller_has_set_stays():
    assert started(GRPC_EXPERIMENTS="tcp_rcv_lowat").stdout.strip() == "tcp_rcv_lowat"
