"""AlexNet's conv2 on two workers: which channels each tower computes, and what it costs.

Run it:  python examples/two_towers.py
"""

import numpy as np

import groupconv
from groupconv_server.server import Config, Server


def main() -> None:
    """Serve with two workers, ask for the plan, run it, and show that the towers never met."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 96, 27, 27), dtype=np.float32)
    w = rng.standard_normal((256, 48, 5, 5), dtype=np.float32)
    spec = groupconv.ConvSpec(padding=2, groups=2, activation="relu")
    with Server(Config(port=0, workers=2)) as server, groupconv.connect(server.address) as client:
        print(client.plan(x.shape, w.shape, spec))
        both = client.convolve(x, w, spec=spec)
        # a tower alone, as the first GPU of 2012 saw it: half the channels, half the filters
        tower = client.conv2d(x[:, :48], w[:128], padding=2, activation="relu")
        print("the first tower alone equals the first half of the whole:", np.array_equal(both[:, :128], tower))


if __name__ == "__main__":
    main()
