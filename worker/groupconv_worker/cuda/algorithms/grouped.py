"""Depthwise and thin grouped convolution on the device: kernels/grouped.cu."""

from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.grouping import pack_grouped, plan_launch, template_of
from groupconv_worker.cuda.arguments import gather_of, phases_of
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.kernel import DeviceKernel


class CudaGrouped:
    """Convolutions whose groups are too thin for a matrix product.

    Args:
        device: where.
    """

    name = "grouped"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """Floats, not transposed, with an input tile that fits shared memory."""
        g, wide = problem.geometry, problem.types.accumulate
        if g.transposed or wide.kind != "f" or max(*g.padded, *g.output) >= 2**31:
            return False
        return plan_launch(g, 1, 1, wide.itemsize) is not None

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Pack the filters of a group side by side."""
        return _Grouped(self._device, problem, weight, bias)


class _Grouped:
    algorithm = "grouped"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._device, self._geometry = device, g
        self._types = device_types(problem.types)
        self._phases = phases_of(g)
        filters = template_of(g, self._types.accumulate.itemsize)[2]
        self._filters = device.upload(pack_grouped(weight, g, filters).astype(self._types.weight, copy=False))
        self._epilogue = Epilogue(device, g, bias, self._types.accumulate)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes) + self._phases.nbytes + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - none, whatever the size
        return 0

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002
        g = self._geometry
        groups = x.shape[1] // (g.in_channels // g.groups)
        launch = plan_launch(g, x.shape[0], groups, self._types.accumulate.itemsize)
        assert launch is not None, "supports() said it fits"
        self._device.kernels.launch(
            "grouped.cu",
            instances.grouped(self._types.input, *launch.shape),
            launch.blocks,
            launch.threads,
            (
                x,
                self._filters[first_group : first_group + groups],
                self._epilogue.record(first_group * (g.out_channels // g.groups)),
                y,
                gather_of(g, self._phases, x.shape[0], groups, 0),
                launch.record,
            ),
            launch.shared,
        )
