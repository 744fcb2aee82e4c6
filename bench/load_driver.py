"""Does Locust see what the SDK sees? The same load by bare threads, by `groupconv load` and by Locust on gevent's gRPC.

    python bench/load_driver.py

Serves on a free port, and asks it with 1 and 8 users for 4 s each, interleaved, three rounds; prints medians.
docs/adr/0005-locust-without-gevent-grpc.md says what follows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time

LAYER = "mobilenet_dw_14"
DRIVERS = ("threads", "load", "gevent")


def threads(target: str, users: int, seconds: float) -> list[float]:
    """Latencies as the SDK has them on plain threads."""
    import groupconv
    from groupconv_server.layers.catalogue import layer_named

    layer = layer_named(LAYER)
    x, w, b = layer.arrays()
    took: list[float] = []
    end = time.perf_counter() + seconds

    def user() -> None:
        with groupconv.connect(target) as client:
            while (start := time.perf_counter()) < end:
                client.convolve(x, w, b, layer.spec)
                took.append(time.perf_counter() - start)

    running = [threading.Thread(target=user) for _ in range(users)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return took


def load(target: str, users: int, seconds: float) -> list[float]:
    """Latencies as `groupconv load` has them."""
    import groupconv
    from groupconv_server.load.drive import Load
    from groupconv_server.load.profile import Profile

    profile = Profile.model_validate({"users": users, "seconds": seconds, "verify": 0, "mix": [{"layer": LAYER}]})
    return [s.seconds for s in Load(profile, lambda: groupconv.connect(target), target=target).run().samples]


def gevent(target: str, users: int, seconds: float) -> list[float]:
    """Latencies where everything is patched and gRPC polls through gevent."""
    import gevent.monkey

    gevent.monkey.patch_all()
    import grpc.experimental.gevent

    grpc.experimental.gevent.init_gevent()
    return threads(target, users, seconds)  # its threads are greenlets now


def measure(driver: str, target: str, users: int, seconds: float) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--driver", driver, "--target", target, "--users", str(users)]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Compare, or be one of the compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=DRIVERS)
    parser.add_argument("--target")
    parser.add_argument("--users", type=int)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.driver:
        took = {"threads": threads, "load": load, "gevent": gevent}[asked.driver](
            asked.target, asked.users, asked.seconds
        )
        cuts = statistics.quantiles(took, n=100)
        print(json.dumps({"rate": len(took) / asked.seconds, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}))
        return
    from groupconv_server.config import Config
    from groupconv_server.server import Server

    print(f"{LAYER}\nusers  driver   requests/s  p50 ms  p99 ms")
    with Server(Config(port=0, executor="local", workers=1, threads=1)) as server:
        for users in (1, 8):
            runs: dict[str, list[dict[str, float]]] = {driver: [] for driver in DRIVERS}
            for _ in range(asked.rounds):
                for driver in DRIVERS:
                    runs[driver].append(measure(driver, server.address, users, asked.seconds))
            for driver in DRIVERS:
                rate, p50, p99 = (statistics.median(run[key] for run in runs[driver]) for key in ("rate", "p50", "p99"))
                print(f"{users:5}  {driver:8} {rate:10.1f}  {p50:6.2f}  {p99:6.2f}", flush=True)


if __name__ == "__main__":
    main()
