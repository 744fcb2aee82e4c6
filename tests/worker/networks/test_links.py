"""Links: parts of a network that share no memory send each other boxes by TCP."""

import socket
import threading

import numpy as np
import pytest
from networks import towers

from groupconv_worker.budget import granted
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.network.kernels.exchange import write_number
from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.network.sharded import connected
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.part import RECEIVE, SEND
from groupconv_worker.graph.partition.uniform import uniform
from groupconv_worker.graph.partition.zones import Zone, zones
from groupconv_worker.job import Job
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.endpoint import LaneEndpoint
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import greet, new_key
from groupconv_worker.lanes.sockets import connect
from groupconv_worker.networks.gang import GangLostError
from groupconv_worker.networks.links import BOX, HELLO, PartLinks
from groupconv_worker.networks.part import PartRunner
from groupconv_worker.networks.part_info import PartAddress
from waiting import until

KEY = new_key()
ZONES = [Zone(64, 128, 40), Zone(0, 192, 2**20)]
"""In the order in which they are packed."""
SIZE = 192 + 2**20


class Node:
    """A part on a node of its own: its memory, its links and its endpoint."""

    def __init__(self, worker, sent, received, size=SIZE):
        self.memory = np.zeros(size, np.uint8)
        self.links = PartLinks(worker, sent, received, self.memory)
        self.endpoint = LaneEndpoint(None, KEY, "127.0.0.1", link=self._receive)

    @property
    def address(self):
        return PartAddress(self.endpoint.address, self.links.ticket)

    def semaphore(self, zone):
        return int(self.memory[zone.semaphore :][:8].view(np.int64)[0])

    def elements(self, zone):
        return self.memory[zone.offset :][: zone.nbytes]

    def pack(self, zone, value, number):
        self.elements(zone)[:] = value
        write_number(self.memory.ctypes.data + zone.semaphore, number)

    def close(self):
        self.links.close()
        self.endpoint.close()

    def _receive(self, sock, body):
        ticket, sender = HELLO.unpack(body)
        assert ticket == self.links.ticket
        self.links.receive(sock, sender)


@pytest.fixture
def pair():
    """Worker 0 sends to worker 1."""
    sender, receiver = Node(0, {1: ZONES}, {}), Node(1, {}, {0: ZONES})
    sender.links.open({1: receiver.address}, KEY)
    yield sender, receiver
    sender.close()
    receiver.close()


def test_boxes_arrive_with_the_number_of_their_run(pair):
    sender, receiver = pair
    for number in (1, 2, 3):
        with sender.links.sending(number, Job()):
            for zone in ZONES:
                sender.pack(zone, number, number)
                until(lambda zone=zone, number=number: receiver.semaphore(zone) == number)
                assert (receiver.elements(zone) == number).all()


def test_what_a_run_has_not_packed_is_never_sent(pair):
    sender, receiver = pair
    with sender.links.sending(1, Job()):
        sender.pack(ZONES[0], 1, 1)
    with sender.links.sending(2, Job()):
        for zone in ZONES:
            sender.pack(zone, 2, 2)
    until(lambda: [receiver.semaphore(zone) for zone in ZONES] == [2, 2])
    assert (receiver.elements(ZONES[1]) == 2).all()


def test_a_run_ends_with_a_peer_that_goes(pair):
    sender, receiver = pair
    job = Job()

    def run():
        with receiver.links.sending(1, job):
            sender.close()
            until(lambda: job.over)
            job.check()

    assert raises(run)
    with pytest.raises(GangLostError), receiver.links.sending(2, Job()):
        pass


def test_the_sender_notices_a_peer_that_goes(pair):
    sender, receiver = pair
    receiver.close()

    def run():
        with sender.links.sending(1, Job()):
            for zone in ZONES:
                sender.pack(zone, 1, 1)

    until(lambda: raises(run))


def raises(run):
    try:
        run()
    except GangLostError:
        return True
    return False


def test_a_deadline_ends_a_link_whose_peer_does_not_read():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        zone = Zone(0, 64, 2**26)
        sender = Node(0, {1: [zone]}, {}, 64 + zone.nbytes)
        over = threading.Event()
        stalled = threading.Thread(target=greet_and_stall, args=(listener, over))
        stalled.start()
        sender.links.open({1: PartAddress(listener.getsockname(), bytes(16))}, KEY)
        with pytest.raises(GangLostError), sender.links.sending(1, Job(alive=lambda: False)):
            sender.pack(zone, 1, 1)
        over.set()
        stalled.join()
        sender.close()


def greet_and_stall(listener, over):
    """Accept a link, and read nothing of its boxes."""
    sock, _ = listener.accept()
    with sock:
        greet(sock, KEY)
        assert frames.receive(sock)[0] is FrameKind.LINK
        frames.send(sock, FrameKind.DONE)
        over.wait()


def test_strangers_are_refused(pair):
    receiver = pair[1]
    for worker in (0, 7):  # one that has a link already, and one that sends nothing
        with connect(receiver.endpoint.address, KEY) as sock:
            frames.send(sock, FrameKind.LINK, HELLO.pack(receiver.links.ticket, worker))
            assert sock.recv(1) == b""
    with pytest.raises(BrokenLaneError, match="no such part"):
        PartRunner(None, None, None).receive(None, HELLO.pack(bytes(16), 0))
    with pytest.raises(BrokenLaneError):
        connect(receiver.endpoint.address, new_key())
    with connect(receiver.endpoint.address, KEY) as sock:
        frames.send(sock, FrameKind.LINK, b"short")
        assert sock.recv(1) == b""


@pytest.mark.parametrize("semaphore", [8, -64, 2**40])
def test_a_box_without_an_exchange_ends_its_link(semaphore):
    receiver = Node(1, {}, {0: ZONES})
    with connect(receiver.endpoint.address, KEY) as sock:
        frames.send(sock, FrameKind.LINK, HELLO.pack(receiver.links.ticket, 0))
        assert frames.receive(sock)[0] is FrameKind.DONE
        frames.send(sock, FrameKind.BOX, BOX.pack(semaphore, 1))
        assert sock.recv(1) == b""
    assert not receiver.memory.any()
    receiver.close()


@pytest.mark.parametrize("cut", ["rows", "channels"])
def test_a_network_over_links(cut):
    """Two parts without memory in common answer as one worker does."""
    x = np.random.default_rng(0).standard_normal((1, 4, 40, 40)).astype(np.float32)
    graph = Optimized(read_model(towers().SerializeToString())).canonical({"x": x.shape})
    made = uniform(graph, cut, 2, LANES)
    graphs, size = connected(made)
    nodes = [Node(w, zones(g, SEND), zones(g, RECEIVE), size) for w, g in enumerate(graphs)]
    for node in nodes:
        node.links.open({w: other.address for w, other in enumerate(nodes)}, KEY)
    programs = [CompiledNetwork(part, Team(1)) for part in graphs]
    want = CompiledNetwork(graph, Team(1)).run({"x": x})["y"]
    for number in (1, 2):
        found = np.full_like(want, np.nan)
        job = Job()

        def work(worker, number=number, found=found, job=job):
            part = made.parts[worker]
            granted.set(1)
            inputs = {name: x[box.slices] for name, box in part.inputs.items()}
            with job, nodes[worker].links.sending(number, job):
                outputs = programs[worker].run(inputs, shared=(nodes[worker].memory.ctypes.data, number))
            for maker, box in made.outputs["y"]:
                if maker == worker:
                    found[box.slices] = outputs["y"][box.relative(part.outputs["y"]).slices]

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    for node in nodes:
        node.close()
