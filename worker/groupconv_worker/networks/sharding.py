"""Networks over several workers of a process: prepared beside the calls, measured, and taken where they are faster.

One worker answers at first. Once it is known whether its session or its program does, another process compiles the
kernels of the network cut in each way. Then each cut and the worker run in turns on a copy of a call's inputs. The
fastest cut answers the calls of these shapes from then on, while all workers have nothing else to do. Calls that come
together go whole to one worker each.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence

from groupconv.errors import FailedPreconditionError, GroupconvError, InternalError, InvalidArgumentError
from groupconv.networks.plan import ExchangeReport, PartReport
from groupconv.text import human_bytes
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.background import Background
from groupconv_worker.networks.by_shapes import ByShapes, shapes_of
from groupconv_worker.networks.gang import Gang, GangLostError, GangNetwork, Make, UncutError
from groupconv_worker.networks.judgement import differing, rounds
from groupconv_worker.networks.known_cuts import KnownCuts
from groupconv_worker.networks.runner import OURS, WHOLE, NetworkCall, NetworkRun
from groupconv_worker.tuning.autotune import enabled

log = logging.getLogger(__name__)

GLANCE = 0.02
"""Seconds between two looks whether a caller that waits is still there."""


class Sharder:
    """Runs networks over all workers of a process.

    Args:
        gang: the workers.
        whole: has one worker run a call.
    """

    def __init__(
        self,
        gang: Gang,
        whole: Callable[[NetworkCall, Model, Job], NetworkRun],
    ) -> None:
        self._gang, self._whole = gang, whole
        self._known = ByShapes[KnownCuts](self._evict)
        self._background = Background("sharder")

    def run(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun] | None:
        """Run a call on all workers, if it was asked to be cut, or if that is faster and they have nothing to do.

        Returns:
            The ids of the workers, and the outputs; None if one worker is to run the call.

        Raises:
            InvalidArgumentError: the network cannot be cut as it was asked to be.
            FailedPreconditionError: there is no process that compiles its kernels.
            DeadlineExceededError, CancelledError: the job was over first.
        """
        if call.spare < 0 and call.cut in ("", WHOLE):
            return None
        known = self._find(call)
        if call.cut == WHOLE:
            return None
        cut = known.requested(call, self._gang.nodes) if call.cut else known.best if self._gang.idle else None
        if cut is None:
            return None
        try:
            network = known.networks.get(cut.key) or self._asked(known, cut, call, model, job)
            outputs, parts = self._gang.run(network, call.inputs, job, call.into)
        except (InternalError, MemoryError) as error:
            log.warning("network %s starts again on one worker: %s", call.network, error)
            if isinstance(error, GangLostError):
                self._discard(known, cut.key)
                if known.is_best(cut.key):
                    known.best, known.started = None, False  # prepared again for those that are there then
            return None
        ids = network.ids
        reason = f"cut {cut}, {known.reason if known.is_best(cut.key) else 'as asked for'}"
        reports = tuple(
            PartReport(OURS, nodes, part.seconds, f"{name}'s part, {reason}")
            for name, nodes, part in zip(ids, network.nodes, parts, strict=True)
        )
        exchanges = tuple(ExchangeReport(e.tensor, e.nbytes, ids[e.sender], ids[e.receiver]) for e in network.exchanges)
        return ",".join(ids), NetworkRun(
            {name: outputs[name] for name in call.outputs},
            max(part.seconds for part in parts),
            OURS,
            reason,
            self.bytes_of(call.network, call.version),
            reports,
            cut=cut.name,
            exchanges=exchanges,
            coordinator_bytes=sum(part.coordinator_bytes for part in parts),
        )

    def answered(self, call: NetworkCall, model: Model, ran: NetworkRun) -> None:
        """One worker has answered a call that `run` left to it: have cuts measured, once its way is settled."""
        known = self._known.get(call.network, call.version, shapes_of(call.inputs))
        if known is None or known.started or not ran.settled or call.spare < 0 or not enabled():
            return
        known.started = True
        copies = {name: array.copy() for name, array in call.inputs.items()}
        mine = NetworkCall(
            call.network, call.version, copies, call.outputs, spare=call.spare, cut=WHOLE, planner=call.planner
        )
        self._background.do(lambda: self._prepare(known, mine, model))

    def bytes_of(self, network: str, version: int) -> int:
        """Bytes of the programs of a version."""
        networks = [list(known.networks.values()) for known in self._known.of(network, version)]
        return sum(cut_network.nbytes for cut_networks in networks for cut_network in cut_networks)

    def wait(self) -> None:
        """Block until all cuts so far were tried (for tests)."""
        self._background.wait()

    def forget(self, network: str, version: int) -> None:
        """Drop the programs of a version. A call that runs on one goes on to its end."""
        for known in self._known.pop(network, version):
            known.gone, known.best = True, None
            known.networks.clear()

    def close(self) -> None:
        """Try nothing more, and end the gang's threads."""
        self._background.closed = True
        self._gang.close()

    def _find(self, call: NetworkCall) -> KnownCuts:
        return self._known.find(call.network, call.version, shapes_of(call.inputs), KnownCuts)

    def _evict(self, known: KnownCuts) -> None:
        """These shapes were dropped."""
        known.gone = True
        for key in list(known.networks):
            self._discard(known, key)

    def _discard(self, known: KnownCuts, key: str) -> None:
        """Drop the network of a cut."""
        network = known.networks.pop(key, None)
        if network is not None:
            self._gang.drop(network)

    def _prepare(self, known: KnownCuts, call: NetworkCall, model: Model) -> None:
        """Plan the cuts that are to be measured, and measure them once their kernels are compiled."""
        try:
            cuts = known.candidates(call, self._gang.nodes)
        except GroupconvError as error:
            known.reason = str(error)
            return

        def then(make: Make) -> None:
            try:
                self._try(known, cuts, call, model, make)
            except GangLostError as error:
                known.started = False  # and tried again
                log.info("network %s was not cut: %s", call.network, error)

        if not self._gang.prepare(call, model, cuts, self._later(then)):
            known.reason = "there is no process that compiles"

    def _asked(self, known: KnownCuts, cut: CutChoice, call: NetworkCall, model: Model, job: Job) -> GangNetwork:
        """The network cut as it was asked to be, once its kernels are compiled."""
        done = threading.Event()
        networks: list[GangNetwork | None] = []
        lost: list[GangLostError] = []  # emptied before it is raised: the error knows the frames that know the list

        def then(make: Make) -> None:
            try:
                networks.append(known.networks.get(cut.key) or self._make(known, cut, make, call.spare))
            except GangLostError as error:
                lost.append(error)
            finally:
                done.set()

        if not self._gang.prepare(call, model, (cut,), self._later(then)):
            raise FailedPreconditionError("there is no process that compiles the kernels of a network that is cut")
        while not done.wait(GLANCE):
            job.poll()
            job.check()
        if lost:
            raise lost.pop()
        network = networks[0] if networks else None
        if network is None:
            why = known.reasons.get(cut.key, "the log says why")
            raise InvalidArgumentError("cut", f"a way to cut this network ({why})", cut.name)
        return network

    def _make(self, known: KnownCuts, cut: CutChoice, make: Make, spare: int) -> GangNetwork | None:
        """The network of a cut; `found.reasons` says why there is none."""
        try:
            network = make(cut)
        except UncutError as error:
            known.reasons[cut.key] = str(error)
            return None
        if network.nbytes > spare:
            self._gang.drop(network)
            known.reasons[cut.key] = f"{human_bytes(network.nbytes)} of programs do not fit"
            return None
        if not known.gone:
            known.networks[cut.key] = network
            for key in known.superfluous():
                self._discard(known, key)
        return network

    def _try(self, known: KnownCuts, cuts: Sequence[CutChoice], call: NetworkCall, model: Model, make: Make) -> None:
        """Measure each cut beside one worker, and keep the fastest if it is faster."""
        ratios: dict[str, float] = {}
        asked_for = set(known.networks)
        for cut in () if known.gone or self._background.closed else cuts:
            network = known.networks.get(cut.key) or self._make(known, cut, make, call.spare)
            if network is None:
                continue
            ratios[cut.key] = self._measure(known, network, call, model)
            for key, ratio in ratios.items():
                if key not in asked_for and (ratio >= 1 or ratio > min(ratios.values())):
                    self._discard(known, key)
        best = min(cuts, key=lambda cut: ratios.get(cut.key, math.inf))
        ratio = ratios.get(best.key, math.inf)
        if math.isinf(ratio):
            known.reason = "; ".join(f"{key}: {why}" for key, why in known.reasons.items())
            return
        known.reason = f"measured at {ratio:.2f} × one worker's time"
        if ratio < 1 and not known.gone:
            known.best = best
        log.info("network %s, cut %s: %s", call.network, best, known.reason)

    def _measure(self, known: KnownCuts, network: GangNetwork, call: NetworkCall, model: Model) -> float:
        """The time of a cut over that of one worker, the least of runs in turns; infinite if they disagree."""
        whole: list[float] = []
        cut: list[float] = []
        for _ in rounds(lambda: known.gone or self._background.closed):
            with Job() as job:
                ran = self._whole(call, model, job)
                whole.append(ran.seconds)
                outputs, parts = self._gang.run(network, call.inputs, job)
            cut.append(max(part.seconds for part in parts))
            name = differing(outputs, ran.outputs)
            if name is not None:
                log.error("network %s: %r differs where it is cut", call.network, name)
                return math.inf
        return min(cut) / min(whole) if cut else math.inf

    def _later(self, then: Callable[[Make], None]) -> Callable[[Make], None]:
        """A function that calls `then` in the sharder's thread."""
        return lambda make: self._background.do(lambda: then(make))
