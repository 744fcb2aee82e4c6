"""How a network is cut over workers, as a message."""

from groupconv.networks.cuts import NetworkCuts
from groupconv.networks.tensor_cut import Box, TensorCut
from groupconv.v1 import network_pb2


def cuts_to_wire(cuts: NetworkCuts) -> network_pb2.NetworkCuts:
    """The cuts of a network."""
    return network_pb2.NetworkCuts(
        workers=cuts.workers,
        tensors=map(_tensor_to_wire, cuts.tensors),
        seconds=cuts.seconds,
        considered=[network_pb2.ConsideredWorkers(workers=w, seconds=seconds) for w, seconds in cuts.considered],
        input_bytes=cuts.input_bytes,
        output_bytes=cuts.output_bytes,
        reason=cuts.reason,
        nodes=cuts.nodes,
        between_nodes_bytes=cuts.between_nodes_bytes,
    )


def cuts_from_wire(message: network_pb2.NetworkCuts) -> NetworkCuts:
    """The cuts of a network."""
    return NetworkCuts(
        message.workers,
        tuple(map(_tensor_from_wire, message.tensors)),
        message.seconds,
        tuple((considered.workers, considered.seconds) for considered in message.considered),
        message.input_bytes,
        message.output_bytes,
        message.reason,
        tuple(message.nodes),
        message.between_nodes_bytes,
    )


def _tensor_to_wire(tensor: TensorCut) -> network_pb2.TensorCut:
    boxes = [
        network_pb2.WorkerBox(
            worker=worker, ranges=[network_pb2.IndexRange(start=start, stop=stop) for start, stop in box]
        )
        for worker, box in enumerate(tensor.boxes)
        if box is not None
    ]
    return network_pb2.TensorCut(
        node=tensor.node,
        op=tensor.op,
        tensor=tensor.tensor,
        shape=network_pb2.Shape(extents=tensor.shape),
        cut=tensor.cut,
        used=len(tensor.boxes),
        boxes=boxes,
        exchanged_bytes=tensor.exchanged_bytes,
        seconds=tensor.seconds,
        exchange_seconds=tensor.exchange_seconds,
    )


def _tensor_from_wire(message: network_pb2.TensorCut) -> TensorCut:
    boxes: list[Box | None] = [None] * message.used
    for box in message.boxes:
        boxes[box.worker] = tuple((r.start, r.stop) for r in box.ranges)
    return TensorCut(
        message.node,
        message.op,
        message.tensor,
        tuple(message.shape.extents),
        message.cut,
        tuple(boxes),
        message.exchanged_bytes,
        message.seconds,
        message.exchange_seconds,
    )
