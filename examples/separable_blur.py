"""A large Gaussian blur three ways: the full kernel, rank 1 in two passes, and depthwise separable.

Run it:  python examples/separable_blur.py
"""

import time

import numpy as np

import groupconv
from groupconv.convolution.kernels import gaussian
from groupconv_server.server import Config, Server


def main() -> None:
    """Time and compare the three on a random picture of 512 × 512."""
    x = np.random.default_rng(0).random((1, 3, 512, 512), dtype=np.float32)
    taps = gaussian(4.0)
    full = np.broadcast_to(np.outer(taps, taps), (3, 1, len(taps), len(taps)))
    with Server(Config(port=0)) as server, groupconv.connect(server.address) as client:
        ways = {
            f"{len(taps)}×{len(taps)} depthwise": lambda: client.depthwise_conv2d(x, full, padding="same"),
            f"{len(taps)}×1 then 1×{len(taps)}": lambda: client.spatially_separable_conv2d(
                x, taps, taps, padding="same"
            ),
            "depthwise, then 1×1": lambda: client.depthwise_separable_conv2d(
                x, full, np.eye(3, dtype=np.float32), padding="same"
            ),
        }
        want = None
        for name, way in ways.items():
            start = time.perf_counter()
            y = way()
            took = time.perf_counter() - start
            want = y if want is None else want
            print(f"{name:22} {took * 1e3:6.0f} ms, largest difference {np.abs(y - want).max():.1e}")


if __name__ == "__main__":
    main()
