"""Depthwise and thin grouped convolution on the device: kernels/grouped.cu."""

from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.algorithms.grouping import pack_grouped, plan_launch, template_of
from groupconv_worker.cuda.arguments import gather_of, phases_of
from groupconv_worker.cuda.device import Device


class Grouped(DeviceKernel):
    """Convolutions whose groups are too thin for a matrix product."""

    algorithm = "grouped"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        self._order = phases_of(self.geometry)
        per_thread = template_of(self.geometry, self.types.accumulate.itemsize)[2]
        self.filters = self.upload(pack_grouped(weight, self.geometry, per_thread))

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """Floats, not transposed, with an input tile that fits in shared memory."""
        g, wide = problem.geometry, problem.types.accumulate
        if g.transposed or wide.kind != "f" or max(*g.padded, *g.output) >= 2**31:
            return False
        return plan_launch(g, 1, 1, wide.itemsize) is not None

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._order.nbytes

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # it needs no workspace
        g, groups = self.geometry, self.groups_in(x)
        launch = plan_launch(g, x.shape[0], groups, self.types.accumulate.itemsize)
        assert launch is not None, "supports() checks that a tile fits"
        self.device.kernels.launch(
            "grouped.cu",
            instances.grouped(self.types.input, *launch.shape),
            launch.blocks,
            launch.threads,
            (
                x,
                self.filters[first_group : first_group + groups],
                self.epilogue_of(first_group),
                y,
                gather_of(g, self._order, x.shape[0], groups, 0),
                launch.argument,
            ),
            launch.shared,
        )
