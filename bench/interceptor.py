"""What the interceptor costs: requests with it, with tokens, and without; medians.

python bench/interceptor.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import groupconv
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.admission.interceptor import Interceptor
from groupconv_server.config import Config
from groupconv_server.server import Server

ROUNDS, REQUESTS = 15, 60
KINDS = ("without", "interceptor", "tokens")


def passed(_: Interceptor, continuation: Callable[[Any], Any], details: Any) -> Any:
    """No interceptor."""
    return continuation(details)


def seconds(client: groupconv.Client, x: np.ndarray, w: np.ndarray) -> float:
    """Of one request, by a run of them."""
    for _ in range(5):
        client.conv2d(x, w, groups=4)
    start = time.perf_counter()
    for _ in range(REQUESTS):
        client.conv2d(x, w, groups=4)
    return (time.perf_counter() - start) / REQUESTS


def main() -> None:
    """Print milliseconds of a request by size and kind, and what each kind takes beside none."""
    through, token = Interceptor.intercept_service, new_token()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.toml"
        file.write_text(entry_text("bench", token, CallerLimits(1e6, 1e12, 99)))
        files = {"without": None, "interceptor": None, "tokens": file}
        servers = {k: Server(Config(port=0, executor="local", workers=1, threads=1, tokens=files[k])) for k in KINDS}
        clients = {k: groupconv.connect(s.address, token=token, timeout=60) for k, s in servers.items()}
        for size in (8, 256):
            x, w = np.ones((1, 4, size, size), np.float32), np.ones((4, 1, 3, 3), np.float32)
            found: dict[str, list[float]] = {k: [] for k in KINDS}
            for i in range(ROUNDS):
                for k in KINDS[i % 3 :] + KINDS[: i % 3]:
                    Interceptor.intercept_service = passed if k == "without" else through  # type: ignore[method-assign]
                    found[k].append(seconds(clients[k], x, w))
            plain = found["without"]
            for k in KINDS:
                ratio = statistics.median(a / b for a, b in zip(found[k], plain, strict=True))
                print(f"{size:4d}² {k:11s} {statistics.median(found[k]) * 1e3:6.3f} ms  {ratio - 1:+.1%}")
        for client in clients.values():
            client.close()
        for server in servers.values():
            server.stop()


if __name__ == "__main__":
    main()
