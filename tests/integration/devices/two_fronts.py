"""A program: a server of two processes, whose worker's process has the only device. Prints what its clients saw.

Every process of this server loads this file, so each would have the device, if it asked for it.
"""

import json
import os
import signal
import sys
from contextlib import ExitStack

import numpy as np

import groupconv
from emulation.stand_in import as_cupy
from groupconv import ConvSpec
from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from waiting import until

X = np.arange(1 * 4 * 6 * 6, dtype=np.float32).reshape(1, 4, 6, 6)
W = np.ones((4, 2, 3, 3), np.float32)

if __name__ in ("__main__", "__mp_main__"):  # not where a collection of doctests imports it
    played = ExitStack()  # until the process ends
    played.enter_context(as_cupy())


def main() -> None:
    """Serve, call, and lose the worker once."""
    with (
        Supervisor(Config(port=0, executor="local", threads=1, engine="cuda", processes=2)) as server,
        groupconv.connect(server.address, timeout=60, connections=16) as client,
    ):
        layer = client.load_layer("device", W, spec=ConvSpec(groups=2))
        before = [layer(X) for _ in range(8)]
        (slot,) = server._owner._workers.membership.slots
        pid = slot.facts["pid"]
        os.kill(pid, signal.SIGKILL)
        after = [layer(X) for _ in range(8)]
        until(lambda: slot.facts["pid"] != pid and slot.ready)
        status = client.status()
        json.dump(
            {
                "engines": [worker.engine for worker in status.workers],
                "restarts": [worker.restarts for worker in status.workers],
                "processes": sum(process.requests > 0 for process in status.processes),
                "answers": [y.tolist() for y in (*before, *after)],
            },
            sys.stdout,
        )


if __name__ == "__main__":
    main()
