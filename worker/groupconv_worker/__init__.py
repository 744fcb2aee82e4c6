"""The worker: what runs a shard of a convolution on one device."""

from groupconv.moved import redirect

redirect(
    __name__,
    {
        "algorithms": "cpu.algorithms",
        "algorithms.direct": "cpu.algorithms.direct",
        "algorithms.fft": "cpu.algorithms.fft",
        "algorithms.filters": "cpu.algorithms.filters",
        "algorithms.gemm": "cpu.algorithms.gemm",
        "algorithms.grouped": "cpu.algorithms.grouped",
        "algorithms.onnx": "cpu.algorithms.onnx",
        "algorithms.plane": "cpu.algorithms.plane",
        "algorithms.samples": "cpu.algorithms.samples",
        "algorithms.separable": "cpu.algorithms.separable",
        "algorithms.winograd": "cpu.algorithms.winograd",
        "engines.base": "contract",
        "engines.cpu": "cpu.engine",
        "engines.cuda": "cuda.engine",
        "engines.reference": "reference",
        "kernels": "cpu.kernels",
    },
)
