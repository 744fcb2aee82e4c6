"""Workers with a GPU each, emulated or not, in processes of their own as Ray's are; a network that is cut over them."""

import gc
import itertools
import multiprocessing
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from emulation import ipc, memory
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv_worker.actor import Worker
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.lanes.handshake import new_key
from groupconv_worker.networks.part_info import MODEL_MISSING, PartAddress, PartKey
from waiting import until

KEY = new_key()


class GpuWorker(Worker):
    """What a process runs: an actor without Ray. `module` is the stand-in for CuPy."""

    def __init__(self, module=None, device=0):
        super().__init__("cuda", 1, device=device)
        self._module = module

    def address(self, key, secret):
        """As of `part_address`, on a host that is always the same."""
        with self._opening:
            if secret not in self._endpoints:
                self._endpoints[secret] = self.listen(secret, "127.0.0.1")
        return PartAddress(self._endpoints[secret].address, self.parts.ticket(key))

    def run_in(self, key, number, left, flight, *arrays):
        """As of `run_part`, with seconds that are left."""
        return self.run_part(key, number, None if left is None else time.time() + left, flight, *arrays)

    def reach_others(self, can):
        """Whether the device of this process reaches other ones' memory from now on."""
        runtime = self._module.cuda.runtime

        def refuse(*_):
            raise runtime.CUDARuntimeError(217)  # cudaErrorPeerAccessUnsupported

        runtime.ipcOpenMemHandle = self._module.ipc.open_handle if can else refuse

    def limit_page_locked(self, nbytes):
        """Return the limit that there was."""
        before, self.engine.gpu.page_locked.limit = self.engine.gpu.page_locked.limit, nbytes
        return before

    def held(self):
        """What a part takes: page-locked and opened memory, allocations that others may open, descriptors, threads."""
        gc.collect()
        return {
            "page-locked": len(self._module.host.registered),
            "open": len(self._module.ipc.open),
            "exported": len(ipc.EXPORTED),
            "mapped": Path("/proc/self/maps").read_text().count("memfd:groupconv-lane"),
            "descriptors": len([*Path("/proc/self/fd").iterdir()]),
            "threads": threading.active_count(),
        }

    def freed_while_open(self):
        return ipc.FREED_WHILE_OPEN


def serve(pipe, device):
    """Do what is asked, each in a thread, on a device; None is an emulated one."""
    # a part has the algorithm of the whole; its graph is bound whether or not a processor is idle
    os.environ |= {"GROUPCONV_CUDA_ALGORITHM": "direct", "GROUPCONV_COMPILER_NICE": "0"}
    with ExitStack() as stack:
        if device is None:
            memory.PAGES = True
            module = stack.enter_context(as_cupy())
            stack.enter_context(as_libcuda(module.ipc))
            worker = GpuWorker(module)
        else:
            worker = GpuWorker(device=device)
        sending = threading.Lock()

        def answer(number, method, arguments):
            try:
                found = getattr(worker, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - the caller raises it
                found = error
            with sending:
                pipe.send((number, found))

        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                os._exit(0)
            threading.Thread(target=answer, args=asked, daemon=True).start()


class GpuProcess:
    """A worker, as its coordinator sees it, on a device; None is an emulated one."""

    def __init__(self, device=None):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, device), daemon=True)
        self.process.start()
        theirs.close()
        self._numbers, self._waiting = itertools.count(), {}
        threading.Thread(target=self._receive, daemon=True).start()

    def ask(self, method, *arguments):
        number, future = next(self._numbers), Future()
        self._waiting[number] = future
        self._pipe.send((number, method, arguments))
        return future

    def call(self, method, *arguments, timeout=120):
        return self.ask(method, *arguments).result(timeout)

    def close(self):
        self.process.kill()
        self.process.join()

    def _receive(self):
        while True:
            try:
                number, found = self._pipe.recv()
            except (EOFError, OSError):
                for future in list(self._waiting.values()):
                    future.set_exception(EOFError("the worker has ended"))
                return
            future = self._waiting.pop(number)
            future.set_exception(found) if isinstance(found, Exception) else future.set_result(found)


class Gang:
    """A network that is cut over workers.

    Args:
        workers: the processes.
        data, shape: of the network, and of its input x.
        cut: an axis.
        nodes: of each worker; those of one share memory.
    """

    numbers = itertools.count(1)

    def __init__(self, workers, data, shape, cut, nodes=None):
        self.workers, self.nodes = workers, nodes or [0] * len(workers)
        self.choice = CutChoice(cut)
        first = PartKey("network", next(self.numbers), (("x", shape),), self.choice.key, len(workers), 0)
        self.keys = [first._replace(worker=n) for n in range(len(workers))]
        with ThreadPoolExecutor(len(workers)) as threads:
            self.parts = [*threads.map(lambda n: self._prepared(n, data), range(len(workers)))]
        self.exchanges = self.parts[0].exchanges
        self._connect()

    def _each(self, method, numbers, *arguments):
        futures = {n: self.workers[n].ask(method, self.keys[n], *(a(n) for a in arguments)) for n in numbers}
        return {n: future.result(120) for n, future in futures.items()}

    def _prepared(self, n, data):
        found = []

        def holds():
            asked = self.workers[n].call("prepare_part", self.keys[n], self.choice, data if not found else None)
            found.append(asked)
            assert not isinstance(asked, str) or asked == MODEL_MISSING, asked
            return asked is not None

        until(holds, 170)  # of the 180 that a test has: on a busy machine, other processes that start take their time
        return found[-1]

    def _connect(self):
        nodes = self.nodes
        firsts = {node: nodes.index(node) for node in nodes}
        handles = self._each("share_part", firsts.values())
        assert not any(isinstance(found, str) for found in handles.values()), handles
        others = [n for n, node in enumerate(nodes) if firsts[node] != n]
        assert not any(self._each("open_part", others, lambda n: handles[firsts[nodes[n]]]).values())
        pairs = {(e.sender, e.receiver) for e in self.exchanges}
        near = {(s, r) for s, r in pairs if nodes[s] == nodes[r]}
        landings = self._each("export_part", {r for _, r in near})
        self._each("reach_part", {s for s, _ in near}, lambda n: {r: landings[r] for s, r in near if s == n})
        far = pairs - near
        addresses = self._each("address", {r for _, r in far}, lambda _: KEY)
        linked = self._each(
            "link_part", {s for s, _ in far}, lambda n: {r: addresses[r] for s, r in far if s == n}, lambda _: KEY
        )
        assert not any(linked.values()), linked

    def start(self, x, left=None):
        """Begin a run: its flight, and an answer of each worker."""
        number = flight = next(self.numbers)
        return flight, [
            worker.ask("run_in", key, number, left, flight, *(x[box.slices] for box in part.inputs.values()))
            for worker, key, part in zip(self.workers, self.keys, self.parts, strict=True)
        ]

    def put_together(self, answers):
        """The outputs of a run."""
        pieces = {}
        for answer, part in zip(answers, self.parts, strict=True):
            arrays, _ = answer.result(120)
            for (name, box), array in zip(part.outputs, arrays, strict=True):
                pieces.setdefault(name, []).append((box, array))
        outputs = {}
        for name, several in pieces.items():
            stops = [max(box.ranges[axis].stop for box, _ in several) for axis in range(several[0][1].ndim)]
            outputs[name] = np.full(stops, np.nan, several[0][1].dtype)
            for box, array in several:
                outputs[name][box.slices] = array
        return outputs

    def run(self, x):
        return self.put_together(self.start(x)[1])

    def drop(self):
        """Have those drop their parts that are there."""
        there = [n for n, worker in enumerate(self.workers) if worker.process.is_alive()]
        self._each("drop_part", there)
