"""A program: a server of two processes, with a worker process on each device. Prints what its clients saw.

Every process of this server loads this file, so each would have the devices, if it asked for them. There are as many
as CUDA_VISIBLE_DEVICES names, as the driver would show.
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
    played.enter_context(as_cupy(devices=len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))))


def main() -> None:
    """Serve, call, and lose the worker on the last device once."""
    with (
        Supervisor(Config(port=0, executor="local", threads=1, engine="cuda", processes=2)) as server,
        groupconv.connect(server.address, timeout=60, connections=16) as client,
    ):
        layer = client.load_layer("device", W, spec=ConvSpec(groups=2))
        slots = server._owner._workers.membership.slots
        # one group for each device: which worker an uncut call runs on depends on measured rates
        before = [layer(X, cut="group" if len(slots) > 1 else None) for _ in range(8)]
        used = sum(worker.shards > 0 for worker in client.status().workers)
        slot = slots[-1]
        pid = slot.facts["pid"]
        os.kill(pid, signal.SIGKILL)
        after = [layer(X) for _ in range(8)]
        until(lambda: slot.facts["pid"] != pid and slot.ready)
        status = client.status()
        json.dump(
            {
                "engines": [worker.engine for worker in status.workers],
                "devices": [worker.device.rpartition(", ")[2] for worker in status.workers],
                "used": used,
                "restarts": [worker.restarts for worker in status.workers],
                "processes": sum(process.requests > 0 for process in status.processes),
                "answers": [y.tolist() for y in (*before, *after)],
            },
            sys.stdout,
        )


if __name__ == "__main__":
    main()
