"""Cuts in an ONNX file, in its vocabulary for several devices.

A `ShardingSpec` of a node says that a tensor is split evenly along an axis, or that it is on a group of devices. It
knows no uneven splits. So the boxes themselves are in the node's metadata, under `groupconv.boxes`: for each number of
workers and each tensor, the start and stop of each axis for each worker. They are read first; files of other tools have
specs alone.

Source: the ONNX IR, "Multi-device execution" (IR version 11).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import onnx

from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.partition.cut import Cut, even

KEY = "groupconv.boxes"
"""The key of the boxes in a node's metadata."""
NAME = "groupconv"
"""The name of a configuration begins so; its number of devices follows."""
FIRST_IR = 11
"""The version of the format that has devices."""
MOST = 4096
"""Devices of a configuration of which specs are read."""
Ranges = Sequence[Sequence[int]]


def write_cuts(data: bytes, boxes: Mapping[str, Sequence[Ranges | None]], workers: int) -> bytes:
    """A model's file with cuts; those that it has for as many workers are replaced.

    Args:
        data: the file.
        boxes: by tensor, what each worker makes. Tensors that the file does not have are left out.
        workers: how many.
    """
    model = onnx.ModelProto.FromString(data)
    model.ir_version = max(model.ir_version, FIRST_IR)
    name = f"{NAME}-{workers}"
    retained = [entry for entry in model.configuration if entry.name != name]
    del model.configuration[:]
    model.configuration.extend(retained)
    devices = [f"worker {worker}" for worker in range(workers)]
    model.configuration.append(onnx.DeviceConfigurationProto(name=name, num_devices=workers, device=devices))
    for node in model.graph.node:
        others = [entry for entry in node.device_configurations if entry.configuration_id != name]
        del node.device_configurations[:]
        node.device_configurations.extend(others)
        by_output = {output: boxes[output] for output in node.output if output in boxes}
        if by_output:
            specs = [_spec(output, [_box(b) for b in held]) for output, held in by_output.items()]
            node.device_configurations.append(
                onnx.NodeDeviceConfigurationProto(configuration_id=name, sharding_spec=specs)
            )
            known = {entry.key: entry.value for entry in node.metadata_props}
            del node.metadata_props[:]
            exact = {**json.loads(known.get(KEY, "{}")), str(workers): by_output}
            known[KEY] = json.dumps(exact, separators=(",", ":"))
            for key, value in known.items():
                node.metadata_props.add(key=key, value=value)
    written: bytes = model.SerializeToString()
    return written


def read_cuts(data: bytes, graph: Graph) -> dict[int, dict[str, Cut]]:
    """The cuts of a file, by number of workers.

    Args:
        data: a model's file.
        graph: of the model. Cuts of tensors that it does not make, or of other shapes, are left out.
    """
    model = onnx.ModelProto.FromString(data)
    devices = {entry.name: entry.num_devices for entry in model.configuration}
    cuts: dict[int, dict[str, Cut]] = {}
    for node in model.graph.node:
        exact = {entry.key: entry.value for entry in node.metadata_props}.get(KEY, "{}")
        cut_tensors = [*_exact(exact), *_by_specs(node, devices, graph)]
        for workers, name, boxes in cut_tensors:
            if name in graph.makers and fits(boxes, graph.tensors[name].shape, workers):
                cuts.setdefault(workers, {}).setdefault(name, Cut(tuple(boxes)))
    return cuts


def _exact(text: str) -> Iterator[tuple[int, str, list[Box | None]]]:
    """Workers, tensor and boxes of each entry in our metadata; ends at an entry that is malformed."""
    try:
        for workers, by_output in json.loads(text).items():
            for name, boxes in by_output.items():
                yield int(workers), name, [_box(box) for box in boxes]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return


def _by_specs(node: Any, devices: Mapping[str, int], graph: Graph) -> Iterator[tuple[int, str, list[Box | None]]]:
    """Workers, tensor and boxes of each spec of an output that is whole, or split along one axis."""
    for configuration in node.device_configurations:
        workers = min(devices.get(configuration.configuration_id, 0), MOST)
        for spec in configuration.sharding_spec:
            if spec.tensor_name not in graph.makers or spec.tensor_name not in node.output:
                continue
            shape = graph.tensors[spec.tensor_name].shape
            if not shape:
                continue
            groups = {entry.key: list(entry.value) for entry in spec.index_to_device_group_map}
            held = [groups.get(device, [device]) for device in spec.device]
            split = [dim for dim in spec.sharded_dim if dim.simple_sharding]
            parts: list[Box] = [Box.whole(shape)] * len(held)
            if split:
                axis = split[0].axis % len(shape)
                if len(split) > 1 or split[0].simple_sharding[0].num_shards != len(held):
                    continue
                parts = [Box.whole(shape).along(axis, Range(a, b)) for a, b in pairwise(even(shape[axis], len(held)))]
            boxes: list[Box | None] = [None] * workers
            if all(0 <= worker < workers for group in held for worker in group):
                for part, group in zip(parts, held, strict=True):
                    for worker in group:
                        boxes[worker] = part
                yield workers, spec.tensor_name, boxes


def _spec(name: str, boxes: Sequence[Box | None]) -> onnx.ShardingSpecProto:
    """A cut as far as a spec can say it: whole on some workers, or even parts of one axis on consecutive ones."""
    cut = Cut(tuple(boxes))
    workers, spec = cut.workers, onnx.ShardingSpecProto(tensor_name=name)
    held = [box for box in boxes if box is not None]
    extents = {box.shape for box in held}
    if len(cut.axes) == 1 and len(extents) == 1:
        axis = cut.axes[0]
        whole = max(box.ranges[axis].stop for box in held)
        spec.device.extend(workers)
        spec.sharded_dim.add(axis=axis).simple_sharding.add(dim_value=whole, num_shards=len(workers))
    elif len(workers) == 1:
        spec.device.extend(workers)
    else:  # a group of devices; which parts they have, if they differ, only the metadata says
        spec.device.append(-1)
        spec.index_to_device_group_map.add(key=-1, value=workers)
    return spec


def _box(ranges: Ranges | None) -> Box | None:
    return None if ranges is None else Box(tuple(Range(int(start), int(stop)) for start, stop in ranges))


def fits(boxes: Sequence[Box | None], shape: Sequence[int], workers: int) -> bool:
    """Whether boxes lie in a tensor of this shape, and reach from its beginning to its end along each axis."""
    held = [box for box in boxes if box is not None]
    if len(boxes) != workers or not held or any(len(box.ranges) != len(shape) or box.empty for box in held):
        return False
    joined = held[0]
    for box in held[1:]:
        joined = joined.joined(box)
    return joined == Box.whole(shape)
